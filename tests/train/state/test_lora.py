"""Adapters: trained, saved with what they stand on, loaded merged by everyone else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_training import golden_recipe

from viscot_core.train import worker
from viscot_core.train.state.initial import start

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("load_in", [None, "4bit"])
def test_an_adapter_is_a_checkpoint(
    load_in: str | None, shared: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from viscot_core.models.load import load_model

    recipe = golden_recipe(
        shared / "golden",
        train=["projector", "llm"],
        lora={**LORA, "load_in": load_in},
        max_steps=2,
        epochs=None,
    )
    recipe = recipe.model_copy(update={"stages": (recipe.stage("finetune"),)})
    worker.run(tmp_path / "run", recipe)
    trained = load_model(tmp_path / "run", device="cpu", dtype="fp32").model.state_dict()
    ran = cli("models", "merge-lora", tmp_path / "run", "--out", tmp_path / "merged")
    assert ran.code == 0, ran.err
    merged = load_model(tmp_path / "merged", device="cpu", dtype="fp32").model.state_dict()
    assert all(torch.allclose(merged[name], tensor, atol=1e-6) for name, tensor in trained.items())
    before = start(tmp_path, recipe.model_copy(update={"stages": golden_recipe(shared / "golden").stages}),
                   golden_recipe(shared / "golden").stage("finetune")).model.state_dict()  # fmt: skip
    changed = {
        name for name, tensor in before.items() if not torch.equal(tensor, trained[name].to(tensor.dtype))
    }
    assert changed == {
        name for name in before
        if "multi_modal_projector" in name or ("language_model.layers" in name and "_proj.weight" in name)
    }  # fmt: skip


@pytest.mark.slow
def test_stage_one_leaves_a_projector_that_the_next_run_takes(shared: Path, tmp_path: Path) -> None:
    from viscot_core.models.load import load_model

    recipe = golden_recipe(shared / "golden")
    first = recipe.stages[0].model_copy(update={"max_steps": 2, "epochs": None})
    recipe = recipe.model_copy(update={"stages": (first,)})
    run = worker.run(tmp_path / "run", recipe)
    names = {path.name for path in run.iterdir()}
    assert {"projector.safetensors", "mm_projector.bin", "config.json", "viscot.json"} <= names
    assert "model.safetensors" not in names, "26 GB of frozen weights are not written again"
    loaded = load_model(run, device="cpu", dtype="fp32").model
    raw = golden_recipe(shared / "golden").model.model_copy(update={"projector": str(run)})
    again = start(tmp_path, recipe.model_copy(update={"model": raw}), first).model
    weight = again.model.multi_modal_projector.linear_1.weight
    assert torch.equal(weight, loaded.model.multi_modal_projector.linear_1.weight)
