"""Preflight and checkpoints: bad samples are named before step 0, half-written folders are not used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from viscot_core.data.mix import build, sources_of
from viscot_core.errors import CheckpointError, DataError, UsageError, ViscotError
from viscot_core.families.llava.chat import ChatTokenizer
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.llava.template import TEMPLATES
from viscot_core.train import checkpoints
from viscot_core.train.folder import require_room
from viscot_core.train.preflight import CLOSE, OPEN, preflight, require
from viscot_core.train.recipe import load_recipe
from viscot_core.train.schema import ScratchSpec
from viscot_core.train.throughput import Meter

SHAPE = ScratchSpec(
    image_side=28, patch=14, vision_width=24, vision_layers=2, vision_heads=2, vision_mlp=48,
    llm_width=24, llm_layers=1, llm_heads=2, llm_mlp=48, max_positions=256, vocab_size=300,
)  # fmt: skip
PERSONS = {"checkpoint-100-best", "checkpoint-best", "checkpoint-2.kept"}


@pytest.fixture(scope="module")
def tokens() -> ChatTokenizer:
    return ChatTokenizer(train_tokenizer(["what is it"], vocab_size=300, max_positions=256), image_tokens=4)


def rows(folder: Path, *answers: str, image: str = "a.png", question: str = "<image>\nWhat?") -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    found = [
        {"id": f"r{n}", "image": image, "conversations": [
            {"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for n, answer in enumerate(answers)
    ]  # fmt: skip
    path = folder / "rows.json"
    path.write_text(json.dumps(found))
    return path


def look(path: Path, tokens: ChatTokenizer, length: int = 200) -> Any:
    return preflight([path], path.parent, tokens, TEMPLATES["tiny"], max_length=length, count=10)


def test_the_first_sample_is_shown_with_what_is_supervised(tmp_path: Path, tokens: ChatTokenizer) -> None:
    report = look(rows(tmp_path, "a cat", "a dog"), tokens)
    assert report.looked_at == 2 and not report.bad
    assert f"{OPEN} a cat</s>{CLOSE}" in report.sample and report.sample.count("<image>") == 1
    require(report, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": "gone.png"}, "gone.png"),
        ({"question": "no mark"}, "0 <image> marks for 1 images"),
        ({"question": "<image> <image> twice"}, "2 <image> marks for 1 images"),
        ({"length": 60, "answers": ("w " * 60,)}, "its answer is cut at 60"),
        ({"length": 20, "answers": ("word",)}, "no supervised token in 20"),
    ],
)
def test_bad_samples_stop_the_run_by_name(
    change: dict[str, Any], told: str, tmp_path: Path, tokens: ChatTokenizer
) -> None:
    change = dict(change)
    length, answers = change.pop("length", 200), change.pop("answers", ("fine",))
    report = look(rows(tmp_path, *answers, **change), tokens, length)
    assert len(report.bad) == 1 and told in report.bad[0] and "rows.json, row 0" in report.bad[0]
    with pytest.raises(DataError, match="--allow-bad 1"):
        require(report, 0)
    require(report, 1)


def test_every_source_of_a_mixture_is_looked_at(tmp_path: Path, tokens: ChatTokenizer) -> None:
    (tmp_path / "few").mkdir()
    few = rows(tmp_path / "few", "fine", image="gone.png").rename(tmp_path / "few.json")
    sources = sources_of([rows(tmp_path, *["fine"] * 50), few], {})
    build(tmp_path / "mix", sources)
    report = preflight([tmp_path / "mix"], tmp_path, tokens, TEMPLATES["tiny"], max_length=200, count=5)
    assert report.looked_at == 6 and len(report.bad) == 1 and "gone.png" in report.bad[0]


def test_a_checkpoint_is_whole_or_not_used(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        checkpoints.mark_started(folder)
        (folder / "trainer_state.json").touch()
        if step < 6:
            checkpoints.mark_complete(folder, checkpoints.Saved(step, processes=2))
    last = checkpoints.last_checkpoint(tmp_path)
    assert last is not None and last.name == "checkpoint-4"
    assert checkpoints.saved_of(last) == checkpoints.Saved(4, 2)
    assert checkpoints.last_checkpoint(tmp_path / "none") is None


def test_older_checkpoints_go_when_the_newest_is_whole(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        checkpoints.mark_started(tmp_path / f"checkpoint-{step}")
        if step not in (4, 10):  # cut short by a kill; being written
            checkpoints.mark_complete(tmp_path / f"checkpoint-{step}", checkpoints.Saved(step, processes=1))
    for name in PERSONS:
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / name)
    checkpoints.retain(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{n}" for n in (6, 8, 10)} | PERSONS


def test_a_persons_copy_is_no_checkpoint_of_the_run(tmp_path: Path) -> None:
    for name in (*PERSONS, "checkpoint-2"):
        (tmp_path / name).mkdir()
        checkpoints.mark_complete(tmp_path / name, checkpoints.Saved(9, processes=1))
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
    checkpoints.mark_complete(checkpoint, checkpoints.Saved(4, *before))
    stage = load_recipe("7b-336", [f"stages.finetune.zero_stage={now[1]}"]).stage("finetune")
    expected = checkpoints.Moved(checkpoint, 4) if anew else None
    assert checkpoints.moved_from(checkpoint, stage, now[0]) == expected


def _model(seed: int) -> Any:
    tokenizer = train_tokenizer(["x"], vocab_size=300, max_positions=256)
    return build_model(SHAPE, tokenizer, feature_layer=-2, attention="sdpa", seed=seed)


def test_every_weight_is_restored(tmp_path: Path) -> None:
    """transformers' own resume reads the older on-disk names, and restores no language model."""
    first, second = _model(0), _model(1)
    first.save_pretrained(tmp_path, save_original_format=False)
    checkpoints.load_weights(second, tmp_path)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    first.save_pretrained(tmp_path)  # the older names
    with pytest.raises(CheckpointError, match="does not fit this recipe"):
        checkpoints.load_weights(second, tmp_path)


def test_a_projector_is_written_for_both_readers(tmp_path: Path) -> None:
    model = _model(0)
    checkpoints.save_projector(model.state_dict(), tmp_path)
    old = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    assert set(old) == {f"model.mm_projector.{n}.{k}" for n in (0, 2) for k in ("weight", "bias")}
    other = _model(1)
    checkpoints.load_weights(other, tmp_path)
    assert torch.equal(other.model.multi_modal_projector.linear_2.weight, old["model.mm_projector.2.weight"])


def test_no_room_is_told_at_second_0(tmp_path: Path) -> None:
    require_room(tmp_path / "new", 0.0)
    with pytest.raises(DataError, match=r"GiB free and the run needs about 1e\+09"):
        require_room(tmp_path / "new", 1e9)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/held").open("wb") as file:
        file.truncate(2**32)
    os.link(tmp_path / "run/held", tmp_path / "run/again")  # a second name of it takes no room
    free = shutil.disk_usage(tmp_path).free / 2**30
    require_room(tmp_path / "run", free + 3)
    with pytest.raises(DataError, match="GiB free"):
        require_room(tmp_path / "run", free + 6)
    with pytest.raises(UsageError, match="is a file"):
        require_room(tmp_path / "run/held", 0.0)


def test_a_disk_that_fills_up_under_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**30))
    with checkpoints.disk_full_named(tmp_path):
        pass
    with pytest.raises(RuntimeError, match="another fault"), checkpoints.disk_full_named(tmp_path):
        raise RuntimeError("another fault")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**12))
    with pytest.raises(ViscotError, match=r"is full.*--resume"), checkpoints.disk_full_named(tmp_path):
        raise RuntimeError("[enforce fail at inline_container.cc:672]")


def test_throughput_counts_real_tokens() -> None:
    meter = Meter(8, 2, flops_per_token=1e12, gpu="NVIDIA H100 80GB")
    meter.start(0)
    meter.add(950, 1000, 0)
    found = meter.read(1)
    assert found["non_padding"] == 0.95
    assert {"samples_per_second", "tokens_per_second", "mfu"} <= found.keys()
    assert "bad_rows" not in found
