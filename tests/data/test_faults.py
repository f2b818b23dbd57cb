"""Rows that were accepted in silence: each fault is named, counted, and shown with its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from viscot_core.boxes.geometry import BoxStatus, parse_box
from viscot_core.boxes.registry import codec
from viscot_core.conversation import BOX_REQUEST
from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import with_boxes
from viscot_core.data.faults import faults, has_box
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError

ASKED = f"<image>\nWhat is it? {BOX_REQUEST}"
SIZE = (400, 300)


def row_of(
    box: str = "[0.100, 0.200, 0.300, 0.400]", crop: str = "", answer: str = "a cat"
) -> dict[str, Any]:
    turns = [("human", ASKED), ("gpt", box), ("human", "<image>"), ("gpt", answer)]
    return {
        "id": "r7",
        "image": ["a.png", f"a.png###{crop or '[40, 60, 120, 160]'}"],
        "conversations": [{"from": who, "value": text} for who, text in turns],
    }


def kinds(**fields: str) -> list[str]:
    row = Conversation.model_validate(row_of(**fields))
    return [fault.kind for fault in faults(row, lambda _: SIZE)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"box": "[40, 60, 120, 160]"}, ["box format"]),
        ({"box": '```json\n[{"bbox_2d": [40, 60, 120, 160], "label": "cat"}]\n```'}, ["box format"]),
        ({"box": "<box>(100,200),(300,400)</box>"}, ["box format"]),
        ({"box": "It is left."}, ["box format"]),
        ({"box": "[0.300, 0.400, 0.100, 0.200]"}, ["swapped corners"]),
        ({"crop": "[500, 400, 600, 500]"}, ["crop outside"]),
        ({"crop": "[-90, -90, -10, -10]"}, ["crop outside"]),
        ({"crop": "[120, 160, 40, 60]"}, ["inverted crop"]),
        ({"crop": "[350, 250, 500, 400]"}, []),  # partly outside: shifted inside
        ({"answer": " "}, ["empty answer"]),
    ],
)
def test_each_fault_has_its_kind(fields: dict[str, str], expected: list[str]) -> None:
    assert kinds(**fields) == expected


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    return tmp_path


def write(root: Path, *rows: dict[str, Any]) -> Path:
    (root / "train.json").write_text(json.dumps(rows))
    return root / "train.json"


def test_data_check_counts_and_names_the_first_row(root: Path, cli: Callable[..., Any]) -> None:
    write(root, row_of(), row_of(crop="[500, 400, 600, 500]"), row_of(answer=""), row_of(answer=""))
    ran = cli("data", "check", "--to", root)
    assert ran.code == 0
    assert "train.json: empty answer 2 times; first, row r7: " in ran.err
    assert "train.json: crop outside 1 times; first, a.png" in ran.err
    write(root, *[row_of(box="[40, 60, 120, 160]")] * 3)
    ran = cli("data", "check", "--to", root)
    assert ran.code == 1 and "box format 3 times; first, row r7: the box '[40, 60, 120, 160]'" in ran.err


def test_boxes_are_rewritten(root: Path, cli: Callable[..., Any]) -> None:
    file = write(root, row_of(box="[40, 60, 120, 160]"), row_of(box="[0, 0, 400, 300]"))
    out = root / "new.json"
    ran = cli("data", "convert", file, "--convert-boxes", "pixels", "--out", out)
    assert ran.code == 0 and "2 boxes rewritten, 0 not read" in ran.err
    rows = json.loads(out.read_text())
    boxes = [parse_box(row["conversations"][1]["value"]) for row in rows]
    assert all(box.status is BoxStatus.OK for box in boxes)
    # 400 x 300 is padded by 50 px above and below.
    assert boxes[0].box.coords == pytest.approx((0.1, 0.275, 0.3, 0.525), abs=1e-3)
    other = ("data", "convert", write(root, row_of(box="left")), "--convert-boxes", "pixels")
    ran = cli(*other, "--out", root / "x.json")
    assert ran.code == 1 and "row r7: the box 'left' cannot be read" in ran.err
    assert not (root / "x.json").exists()


def test_openais_messages_are_read_as_llavas(root: Path) -> None:
    turns = row_of()["conversations"]
    roles = {"human": "user", "gpt": "assistant"}
    messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in turns]
    expected = Conversation.model_validate(row_of())
    images = row_of()["image"]
    assert Conversation.model_validate({"id": "r7", "images": images, "messages": messages}) == expected
    assert Conversation.model_validate({"id": "r7", "image": images, "conversations": messages}) == expected
    parts = [{"type": "image"}, {"type": "text", "text": ASKED.removeprefix("<image>\n")}]
    messages[0] = {"role": "user", "content": parts}
    assert Conversation.model_validate({"id": "r7", "images": images, "messages": messages}) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"value": None}, r"row 0 \(id r7\): field 'conversations\.0\.value': Input should be a text"),
        ({"from": "robot"}, r"row 0 \(id r7\): field 'conversations\.0\.from'.*'user'"),
    ],
)
def test_a_damaged_row_is_named_with_its_field_and_the_format(
    change: dict[str, Any], told: str, root: Path
) -> None:
    row = row_of()
    row["conversations"][0] |= change
    with pytest.raises(DataError, match=told) as refused:
        Mixture.open(write(root, row))[0]
    assert '"conversations": [{"from", "value"}]' in str(refused.value)


def test_a_call_of_a_zoom_tool_is_no_box_of_the_row() -> None:
    """Its numbers are its dialect's: they are neither faults, nor rewritten for another family."""
    arguments = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [100, 200, 900, 950]}}'
    call = f"<tool_call>\n{arguments}\n</tool_call>"
    ground = '<grounding>{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "source": "original_image"}</grounding>'
    messages = [
        {"role": "system", "content": 'Answer with {"bbox_2d": [x0, y0, x1, y1]}.'},
        {"role": "user", "content": "<image>\nWhat is it?"},
        {"role": "assistant", "content": call},
        {"role": "tool", "content": "<image>"},
        {"role": "assistant", "content": ground},
        {"role": "user", "content": "<image>"},
        {"role": "assistant", "content": "a cup"},
    ]
    row = Conversation.model_validate({"id": 1, "images": ["a.png"] * 3, "messages": messages})
    assert faults(row) == [] and not has_box(row)
    assert with_boxes(row.turns, codec("qwen3-vl"), [(320, 240)] * 3) == row.turns


def test_a_second_look_s_box_is_of_the_crop_that_was_shown() -> None:
    turns = [
        {"role": "user", "content": f"<image>\nWhat is it? {BOX_REQUEST}"},
        {"role": "assistant", "content": "[0.000, 0.250, 1.000, 0.750]"},
        {"role": "user", "content": "<image>"},
        {"role": "assistant", "content": "[0.000, 0.250, 1.000, 0.750]"},
    ]
    row = Conversation.model_validate({"images": ["a.png", "a.png###[0, 0, 9, 9]"], "messages": turns})
    first, second = [t.text for t in with_boxes(row.turns, codec("pixels"), [(200, 100), (300, 300)])][1::2]
    assert (first, second) == ("[0, 0, 200, 100]", "[0, 75, 300, 225]")
