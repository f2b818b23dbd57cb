"""Chat models of several families through the real worker: they learn, resume, divide as one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_families import make
from made_rows import family_recipe, losses, write_rows

from viscot_core.models.load import load_model
from viscot_core.train import worker

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")

FAMILIES = ("qwen2.5-vl", "qwen3-vl", "internvl", "smolvlm", "gemma3", "qwen3.5")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_learns_and_is_a_checkpoint(name: str, tmp_path: Path) -> None:
    folder, data = make(name, tmp_path / "model"), write_rows(tmp_path / "data")
    run = worker.run(tmp_path / "run", family_recipe(folder, data))
    found = losses(run)
    assert len(found) == 20 and found[-1] < found[0] - 0.7
    before = load_model(folder, device="cpu", dtype="fp32")
    after = load_model(run, device="cpu", dtype="fp32")
    moved = {
        before.family.parts.part_of(name)
        for (name, old), new in zip(before.model.named_parameters(), after.model.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert moved == {"vision_tower", "projector", "llm"}
    assert after.manifest.box_format == (before.manifest.box_format or "viscot")


@pytest.mark.slow
def test_resumed_losses_are_those_of_the_unbroken_run(tmp_path: Path) -> None:
    """Qwen2.5-VL, of which transformers' own resume restores nothing."""
    import shutil

    folder, data = make("qwen2.5-vl", tmp_path / "model"), write_rows(tmp_path / "data")
    recipe: Any = family_recipe(folder, data, max_steps=8, save_steps=4, keep_checkpoints=9)
    whole = losses(worker.run(tmp_path / "run", recipe))
    (stage,) = (tmp_path / "run/stages").iterdir()
    again = tmp_path / "again/stages" / stage.name
    shutil.copytree(stage / "checkpoint-4", again / "checkpoint-4")
    assert losses(worker.run(tmp_path / "again", recipe)) == pytest.approx(whole[4:], abs=1e-5)
