"""Where boxes come from in the six conditions."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest

from viscot_core.boxes.geometry import CENTER, Box, crop_window, format_box
from viscot_core.tasks.shared_strategies import random_box
from viscot_core.tasks.visual_cot.strategies import STRATEGIES
from viscot_core.tasks.visual_cot.task import load_visual_cot


def test_random_boxes_are_the_references_for_its_seeds(shared: Path) -> None:
    rows = json.loads((shared / "golden" / "golden_prompts.json").read_text())["rows"]
    modes = [mode for row in rows for mode in row["modes"] if mode["mode"] == "random"]
    assert len(modes) > 10
    for mode in modes:
        words = mode["prompt"].split("ASSISTANT: ")[1].split("</s>")[0]
        assert format_box(random_box(random.Random(mode["random_seed"]))) == words


def test_random_boxes_depend_on_question_and_seed_only(root: Path) -> None:
    items = load_visual_cot(root).items
    region = STRATEGIES["random-box"].region
    assert region is not None
    first = [region(item, {"seed": 0}) for item in items]
    assert first == [region(item, {"seed": 0}) for item in reversed(items)][::-1]
    assert len(set(first)) == len(items)
    assert first != [region(item, {"seed": 1}) for item in items]
    boxes = [random_box(random.Random(n)) for n in range(2000)]
    assert statistics.mean((box.x0 + box.x1) / 2 for box in boxes) == pytest.approx(0.5, abs=0.02)
    assert all(0 <= n <= 1 for box in boxes for n in box.coords)


def test_the_annotated_box_is_the_files_own_words(shared: Path, root: Path) -> None:
    item = load_visual_cot(root).items[0]
    annotated, center = STRATEGIES["gt-box"].region, STRATEGIES["center-box"].region
    assert annotated is not None and center is not None
    box, words = annotated(item, {"box_format": "viscot"})
    assert format_box(box) == words == item.box_text
    assert annotated(item, {"box_format": "qwen3-vl"}) == (box, None)  # its own words, not the file's
    assert center(item, {}) == (CENTER, None)
    assert STRATEGIES["direct"].region is None


def test_crops_of_given_boxes_are_the_references(shared: Path) -> None:
    rows = json.loads((shared / "golden" / "golden_prompts.json").read_text())["rows"]
    checked = 0
    for row in rows:
        size = (row["det_row"]["width"], row["det_row"]["height"])
        for mode in row["modes"]:
            if (
                mode["mode"] not in ("answer_gt", "center", "random", "answer_pred")
                or not mode["crop_region"]
            ):
                continue
            words = mode["prompt"].split("ASSISTANT: ")[1].split("</s>")[0]
            if mode["mode"] == "random":  # the reference crops the box before it is rounded for the prompt
                box = random_box(random.Random(mode["random_seed"]))
            else:
                box = Box(*(float(n) for n in words.strip("[]").split(",")))
            assert crop_window(box, size) == tuple(map(round, mode["crop_region"])), mode
            checked += 1
    assert checked > 20
