"""Packing is on where it is exact, which each model proves; else rows are padded, or the run refuses."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_families import make
from made_rows import family_recipe, losses, write_rows

from viscot_core.errors import UsageError
from viscot_core.families.generic.backbones import BACKBONES
from viscot_core.train import worker
from viscot_core.train.recipe.schema import Recipe

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")

# One for each shape of inputs: positions on three axes, those and deepstack, tiles, tiles in rows.
PACKING = ("qwen2.5-vl", "qwen3-vl", "internvl", "smolvlm", "llava-onevision", "glm-4v")


def padded(recipe: Recipe) -> Recipe:
    stages = tuple(stage.model_copy(update={"packing": False}) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PACKING[1:]]


@pytest.mark.parametrize("name", [PACKING[0], *SLOW])
def test_packed_losses_are_those_of_padded_rows(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "viscot_core.train.loop.packing_proof")
    recipe = family_recipe(make(name, tmp_path / "model"), write_rows(tmp_path / "data"), max_steps=4)
    packed = losses(worker.run(tmp_path / "packed", recipe))
    assert "packing is exact" in caplog.text
    assert packed == pytest.approx(losses(worker.run(tmp_path / "padded", padded(recipe))), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3.5", "gemma3"])
def test_a_model_that_leaks_is_found_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Were the table wrong, the model itself would say so before the first step."""
    kind = {"qwen3.5": "qwen3_5"}.get(name, name)
    monkeypatch.setitem(BACKBONES, kind, replace(BACKBONES[kind], packs=True))  # type: ignore[index]
    folder, data = make(name, tmp_path / "model"), write_rows(tmp_path / "data")
    recipe = family_recipe(folder, data, max_steps=2)
    found = losses(worker.run(tmp_path / "run", recipe))
    assert "cannot be packed" in caplog.text and "they are padded" in caplog.text
    assert found == pytest.approx(losses(worker.run(tmp_path / "padded", padded(recipe))), abs=1e-6)
    with pytest.raises(UsageError, match=r"finetune\.packing: true - samples of this model cannot be"):
        worker.run(tmp_path / "must", family_recipe(folder, data, max_steps=2, packing=True))


def test_a_family_that_does_not_pack_refuses_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("viscot_core.train.worker.load", load)
    folder, data = make("gemma3", tmp_path / "model"), write_rows(tmp_path / "data", 3)
    with pytest.raises(UsageError, match="samples of one row would see each other in models of the family"):
        worker.run(tmp_path / "run", family_recipe(folder, data, packing=True))
