"""One process: accumulation and checkpointing change no loss; what cannot be learned stops the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_job import recipe_of

from viscot_core.data.synth import write_dataset
from viscot_core.errors import DataError, ViscotError
from viscot_core.train import worker
from viscot_core.train.recipe.schema import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth")
    write_dataset(root, train=8, val=1, seed=9)
    rows = json.loads((root / "train.json").read_text())[:8]
    (root / "mixed.json").write_text(json.dumps(rows))
    return root


def changed(data: Path, **fields: Any) -> Recipe:
    """The packed fine-tuning stage of the job's recipe with other settings."""
    recipe = recipe_of("mixed-ddp", data)
    (stage,) = recipe.stages
    return recipe.model_copy(update={"stages": (stage.model_copy(update=fields),)})


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "stages/1-finetune/log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_the_loss_is_that_of_the_global_batch(data: Path, tmp_path: Path) -> None:
    plain = losses(worker.run(tmp_path / "plain", changed(data)))
    assert plain[-1] < plain[0]
    split = losses(worker.run(tmp_path / "split", changed(data, per_device_batch_size=1)))
    assert split == pytest.approx(plain, abs=1e-4), "tokens are weighed alike, whatever batch they lie in"
    saved = losses(worker.run(tmp_path / "saved", changed(data, gradient_checkpointing=True)))
    assert saved == pytest.approx(plain, abs=1e-4)


def test_a_loss_that_is_no_number_stops_before_the_step(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ViscotError, match=r"(loss|gradient) became (nan|inf) at step \d.*--resume"):
        worker.run(tmp_path, changed(data, learning_rate=1e12, max_grad_norm=0.0, max_steps=20))
    kept = json.loads((tmp_path / "stages/1-finetune/nonfinite-rank0.json").read_text())
    assert kept["what"] in ("loss", "gradient") and kept["step"] > 0
    assert kept["what"] == "gradient" or len(kept["rows"]) == 4


def test_rows_that_go_bad_under_way_are_named(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_dataset(root, train=8, val=1, seed=9)
    (root / "mixed.json").write_text((data / "mixed.json").read_text())
    recipe = changed(root)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"preflight": 0})})
    for image in root.glob("cot/synth/train/*.jpg"):
        image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"rows cannot be learned from and 0 are allowed.*mixed\.json"):
        worker.run(tmp_path / "run", recipe)
