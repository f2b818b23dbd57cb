"""Rows of big files on their way to the model: bad ones are counted, none takes another's place unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_processors import small_processor
from PIL import Image

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.data.mix import build, sources_of
from viscot_core.families.llava.processor import ChatProcessor
from viscot_core.train.loop.mixture_dataset import (
    BYTES_PER_TOKEN,
    BadRow,
    EncodedRow,
    MixtureDataset,
    touches_border,
)
from viscot_core.train.plan.make_plan import data_size
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import StageSpec


@pytest.fixture(scope="module")
def processor() -> ChatProcessor:
    return small_processor()


def stage(**fields: Any) -> StageSpec:
    raw = {"kind": "finetune", "train": ["llm"], "epochs": 1, "global_batch_size": 4, "learning_rate": 1e-3}
    return StageSpec.model_validate({**raw, "max_length": 120, "group_by": "none", **fields})


def opened(
    folder: Path, processor: ChatProcessor, rows: list[dict[str, Any]], **fields: Any
) -> MixtureDataset:
    (folder / "rows.json").write_text(json.dumps(rows))
    legacy = fields.pop("legacy_crop", False)
    files = [folder / "rows.json"]
    return MixtureDataset(files, folder, processor, stage(**fields), legacy_crop=legacy)


def row(image: Any = None, answer: str = "fine") -> dict[str, Any]:
    marks = [] if image is None else [image] if isinstance(image, str) else image
    said = [{"from": "human", "value": "<image>\n" * len(marks) + "What?"}, {"from": "gpt", "value": answer}]
    return {"id": "r", "conversations": said} | ({"image": image} if marks else {})


def test_a_missing_image_is_counted_and_not_replaced(tmp_path: Path, processor: ChatProcessor) -> None:
    Image.new("L", (40, 20)).save(tmp_path / "a.png")
    rows = opened(tmp_path, processor, [row("a.png"), row("gone.png"), row()])
    bad = rows[1]
    assert isinstance(bad, BadRow) and "gone.png" in bad.reason
    batch = rows.collate([rows[0], bad, rows[2]])
    assert batch["bad"] == 1 and batch["rows"].tolist() == [0, 1, 2]
    assert batch["input_ids"].shape[0] == 2 and batch["pixel_values"].shape == (1, 3, 28, 28)
    assert int(batch["tokens"]) == int(batch["attention_mask"].sum())


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_of_bad_rows_teaches_nothing(packing: bool, tmp_path: Path, processor: ChatProcessor) -> None:
    rows = opened(tmp_path, processor, [row("gone.png")], packing=packing)
    batch = rows.collate([rows[0]])
    assert (batch["labels"] == -100).all() and batch["bad"] == 1 and batch["tokens"] == 0


def test_packed_images_stand_in_the_order_of_their_tokens(tmp_path: Path, processor: ChatProcessor) -> None:
    for shade in (10, 200):
        Image.new("RGB", (28, 28), (shade,) * 3).save(tmp_path / f"{shade}.png")
    rows = opened(
        tmp_path, processor, [row("10.png", "a"), row("200.png", "a much longer answer")], packing=True
    )
    items = [rows[0], rows[1]]
    batch = rows.collate(items)
    longest_first = [item for item in reversed(items) if isinstance(item, EncodedRow)]
    brightness = [float(item.inputs.images[0].mean()) for item in longest_first]
    found = [float(pixels.mean()) for pixels in batch["pixel_values"]]
    assert (found[0] > found[1]) == (brightness[0] > brightness[1])


def test_orders_are_whole_steps_and_the_same_for_the_same_seed(
    tmp_path: Path, processor: ChatProcessor
) -> None:
    many = [row("a.png") if n % 3 else row(answer="long " * n) for n in range(30)]
    for grouping in ("none", "length", "modality_length"):
        rows = opened(tmp_path, processor, many, group_by=grouping)
        order = rows.order(Split(2, 1, 2), 5)
        assert len(order) == 32 and set(order) == set(range(30))
        assert order.tolist() == rows.order(Split(2, 1, 2), 5).tolist()
        assert order.tolist() != rows.order(Split(2, 1, 2), 6).tolist()
    lengths = opened(tmp_path, processor, many).lengths()
    assert (lengths[0] < 0) and (lengths[1] > 0)
    before = torch.random.get_rng_state()
    opened(tmp_path, processor, many, group_by="modality_length").order(Split(2, 1, 2), 5)
    assert torch.equal(before, torch.random.get_rng_state()), "the run's own randomness is untouched"


def test_lengths_count_bytes_and_images(tmp_path: Path, processor: ChatProcessor) -> None:
    two = row(["a.png", "a.png"])
    lengths = opened(tmp_path, processor, [row(), row("a.png"), two]).lengths()
    assert lengths[0] == -int(len(json.dumps(row())) / BYTES_PER_TOKEN)
    assert lengths[2] == 2 * processor.image_tokens + int(len(json.dumps(two)) / BYTES_PER_TOKEN)


def test_a_mixtures_weights_say_how_often_rows_are_seen(tmp_path: Path, processor: ChatProcessor) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps([row(answer=name * n) for n in range(1, 9)]))
    sources = sources_of([tmp_path / "a.json", tmp_path / "b.json"], {"b": 2.5})
    build(tmp_path / "mix", sources)
    rows = MixtureDataset([tmp_path / "mix"], tmp_path, processor, stage())
    seen = np.bincount(rows.order(Split(2, 1, 2), 5), minlength=16)
    assert seen[:8].tolist() == [1] * 8 and sorted(seen[8:].tolist()) == [2] * 4 + [3] * 4
    assert data_size(tmp_path, ["mix"]).rows == 28


def test_legacy_crop_drops_the_rows_the_reference_dropped(shared: Path) -> None:
    golden = json.loads((shared / "golden/train_replacement_stats.json").read_text())
    for name in ("cub", "sroie", "vsr"):
        lines = (shared / f"reference_data/metadata/{name}_cot_train.jsonl").read_text().splitlines()
        dropped = 0
        for found in map(json.loads, lines):
            box = Box(*found["bboxs"][0], Frame.ORIGINAL)
            dropped += touches_border(box, (found["width"], found["height"]))
        assert dropped == golden[name]["replaced"]


def test_legacy_crop_leaves_a_rows_place_empty(tmp_path: Path, processor: ChatProcessor) -> None:
    Image.new("RGB", (600, 600)).save(tmp_path / "a.png")
    inside, outside = "a.png###[250, 250, 300, 300]", "a.png###[0, 0, 50, 50]"
    rows = [row(["a.png", outside], "dropped"), row(["a.png", inside], "kept")]
    found = opened(tmp_path, processor, rows, legacy_crop=True)
    batch = found.collate([found[0], found[1]])
    assert batch["rows"].tolist() == [0, 1] and batch["bad"] == 0
    assert batch["input_ids"].shape[0] == 1, "no other row is learned in its stead"
    assert (found.collate([found[0]])["labels"] == -100).all()
    assert isinstance(opened(tmp_path, processor, rows)[0], EncodedRow)
