"""Models of other families are evaluated while they train as the bundled one is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_families import make
from made_rows import family_recipe, write_rows

from viscot_core.train import worker
from viscot_core.train.recipe.schema import EvalSpec

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["qwen2.5-vl", "internvl", "smolvlm"])
def test_loss_and_answers_of_a_family_are_in_the_log(name: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data")
    rows = next(path for path in sorted(data.glob("*.json*")))
    held = tmp_path / "held_out.json"
    held.write_text(rows.read_text().replace("What", "Say what").replace("Where", "Say where"))
    recipe = family_recipe(make(name, tmp_path / "model"), data, max_steps=2)
    spec = EvalSpec(file=str(held), steps=1, questions=3, max_new_tokens=8, allow_overlap=True)
    stages = tuple(stage.model_copy(update={"eval": spec}) for stage in recipe.stages)
    run = worker.run(tmp_path / "run", recipe.model_copy(update={"stages": stages}))
    (log,) = run.glob("stages/*/evaluations.jsonl")
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in found] == [0, 1, 2]
    for line in found:
        assert line["eval_loss"] > 0 and line["eval_questions"] > 0 and "eval_left_out" not in line
    assert found[2]["eval_loss"] < found[0]["eval_loss"]
