"""Checkpoints: half-written folders are not used, every weight is restored, a full disk is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from viscot_core.errors import CheckpointError, ViscotError
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.table import training_from_parts
from viscot_core.tensors import open_weights
from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.recipe.tiny_specs import ScratchSpec
from viscot_core.train.state import checkpoints, saving

SHAPE = ScratchSpec(
    image_side=28, patch=14, vision_width=24, vision_layers=2, vision_heads=2, vision_mlp=48,
    llm_width=24, llm_layers=1, llm_heads=2, llm_mlp=48, max_positions=256, vocab_size=300,
)  # fmt: skip
TRAINING = training_from_parts()
PERSONS = {"checkpoint-100-best", "checkpoint-best", "checkpoint-2.kept"}


def test_a_checkpoint_is_whole_or_not_used(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        checkpoints.mark_started(folder)
        (folder / "trainer_state.json").touch()
        if step < 6:
            checkpoints.mark_complete(folder, checkpoints.CheckpointRecord(step, processes=2))
    last = checkpoints.last_checkpoint(tmp_path)
    assert last is not None and last.name == "checkpoint-4"
    assert checkpoints.record_of(last) == checkpoints.CheckpointRecord(4, 2)
    assert checkpoints.last_checkpoint(tmp_path / "none") is None


def test_older_checkpoints_go_when_the_newest_is_whole(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        checkpoints.mark_started(tmp_path / f"checkpoint-{step}")
        if step not in (4, 10):  # cut short by a kill; being written
            checkpoints.mark_complete(
                tmp_path / f"checkpoint-{step}", checkpoints.CheckpointRecord(step, processes=1)
            )
    for name in PERSONS:
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / name)
    checkpoints.retain(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{n}" for n in (6, 8, 10)} | PERSONS


def test_a_persons_copy_is_no_checkpoint_of_the_run(tmp_path: Path) -> None:
    for name in (*PERSONS, "checkpoint-2"):
        (tmp_path / name).mkdir()
        checkpoints.mark_complete(tmp_path / name, checkpoints.CheckpointRecord(9, processes=1))
    assert checkpoints.last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize(
    ("before", "now", "anew"),
    [
        ((2, 2), (2, 2), False),
        ((2, 0), (1, 0), False),
        ((2, 2), (2, 0), True),
        ((2, 0), (2, 2), True),
        ((2, 2), (1, 2), True),
        ((2, None), (2, 3), False),  # written before the ZeRO stage was kept
        ((2, None), (1, 3), True),
    ],
)
def test_an_optimizer_that_was_divided_otherwise_begins_anew(
    before: tuple[int, int | None], now: tuple[int, int], anew: bool, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    checkpoints.mark_complete(checkpoint, checkpoints.CheckpointRecord(4, *before))
    stage = load_recipe("7b-336", [f"stages.finetune.zero_stage={now[1]}"]).stage("finetune")
    expected = checkpoints.WeightsOnly(checkpoint, 4) if anew else None
    assert checkpoints.weights_only(checkpoint, stage, now[0]) == expected


def _model(seed: int) -> Any:
    tokenizer = train_tokenizer(["x"], vocab_size=300, max_positions=256)
    return build_model(SHAPE, tokenizer, feature_layer=-2, attention="sdpa", seed=seed)


@pytest.mark.parametrize("names", ["servers'", "the modules'", "transformers' older"])
def test_every_weight_is_restored(tmp_path: Path, names: str) -> None:
    """transformers' own resume reads the older on-disk names, and restores no language model."""
    first, second = _model(0), _model(1)
    if names == "servers'":
        saving._save_whole(TRAINING, first, tmp_path, None)
        starts = {name.rpartition(".layers")[0] for name in open_weights(tmp_path) if ".layers" in name}
        assert starts == {"language_model.model", "vision_tower.vision_model.encoder"}
    else:
        first.save_pretrained(tmp_path, save_original_format=names != "the modules'")
    saving.load_weights(TRAINING, second, tmp_path)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    first = _model(0)
    first.save_pretrained(tmp_path, state_dict={"model.other.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="does not fit this recipe"):
        saving.load_weights(TRAINING, first, tmp_path)


def test_a_projector_is_written_for_both_readers(tmp_path: Path) -> None:
    model = _model(0)
    TRAINING.save_projector(model.state_dict(), tmp_path)
    old = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    assert set(old) == {f"model.mm_projector.{n}.{k}" for n in (0, 2) for k in ("weight", "bias")}
    other = _model(1)
    saving.load_weights(TRAINING, other, tmp_path)
    assert torch.equal(other.model.multi_modal_projector.linear_2.weight, old["model.mm_projector.2.weight"])


def test_a_disk_that_fills_up_under_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**30))
    with checkpoints.naming_a_full_disk(tmp_path):
        pass
    with pytest.raises(RuntimeError, match="another fault"), checkpoints.naming_a_full_disk(tmp_path):
        raise RuntimeError("another fault")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**12))
    with pytest.raises(ViscotError, match=r"is full.*--resume"), checkpoints.naming_a_full_disk(tmp_path):
        raise RuntimeError("[enforce fail at inline_container.cc:672]")
