"""Chat models of several families through the real worker: they learn, resume, divide as one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_families import make
from made_family_job import STEPS, job
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "internvl", "smolvlm", "qwen3.5"])
def test_an_adapter_is_merged_as_peft_merges_it(name: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    folder, data = make(name, tmp_path / "model"), write_rows(tmp_path / "data")
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
    recipe = family_recipe(folder, data, max_steps=6, lora=lora, train=["projector", "llm"])
    run = worker.run(tmp_path / "run", recipe)
    assert losses(run)[-1] < losses(run)[0]
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    expected = PeftModel.from_pretrained(base, run).merge_and_unload().state_dict()
    found = load_model(run, device="cpu", dtype="fp32")
    state = found.model.state_dict()
    assert all(torch.allclose(state[key], tensor, atol=1e-6) for key, tensor in expected.items())
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, state[key])}
    parts = {found.family.parts.part_of(key) for key in changed}
    assert parts == {"projector", "llm"} and not any(part == "vision_tower" for part in parts)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", FAMILIES)
def test_two_processes_learn_as_one_does(name: str, tmp_path: Path) -> None:
    """DDP, ZeRO-2 and ZeRO-3, each with batches of which one process's has no image."""
    folder, data = make(name, tmp_path / "model"), write_rows(tmp_path / "data")
    recipe = family_recipe(folder, data, max_steps=STEPS, per_device_batch_size=1)
    alone = losses(worker.run(tmp_path / "alone", recipe))
    modes = ["ddp", "zero2", "zero3"]
    job(2, folder, data, tmp_path / "runs", modes)
    for mode in modes:
        assert losses(tmp_path / "runs" / mode) == pytest.approx(alone, abs=1e-4), mode
    one = load_model(tmp_path / "runs/ddp", device="cpu", dtype="fp32").model.state_dict()
    other = load_model(tmp_path / "runs/zero3", device="cpu", dtype="fp32").model.state_dict()
    assert all(torch.allclose(other[key], tensor, atol=2e-3) for key, tensor in one.items())


@pytest.mark.slow
@pytest.mark.multiprocess
def test_adapters_under_zero(tmp_path: Path) -> None:
    folder, data = make("qwen3-vl", tmp_path / "model"), write_rows(tmp_path / "data")
    modes = ["lora-ddp", "lora-zero2", "lora-zero3"]
    job(2, folder, data, tmp_path / "runs", modes)
    first, *others = (losses(tmp_path / "runs" / mode) for mode in modes)
    assert first[-1] < first[0]
    for found in others:
        assert found == pytest.approx(first, abs=1e-4)
