"""The typed rows: what is read from real files, and how a bad row is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.conversation import Message
from viscot_core.data.annotations import (
    Conversation,
    DetectionRow,
    MetadataRow,
    RefcocoRow,
    Row,
    Rows,
    split_crop,
)
from viscot_core.errors import DataError


@pytest.mark.parametrize(
    ("path", "name", "coords"),
    [
        ("a.jpg", "a.jpg", None),
        ("a b/c.jpg###[1, 2, 30, 40]", "a b/c.jpg", (1, 2, 30, 40)),
        ("a.jpg###[-5, 2, 30, 40]", "a.jpg", (-5, 2, 30, 40)),
        ("a.jpg###[ 1.5,2,30.25 , 40 ]", "a.jpg", (1.5, 2, 30.25, 40)),
    ],
)
def test_split_crop(path: str, name: str, coords: tuple[float, ...] | None) -> None:
    assert split_crop(path) == (name, None if coords is None else Box(*coords, frame=Frame.ORIGINAL))


@pytest.mark.parametrize("suffix", ["", "[]", "[1, 2, 3]", "[1, 2, 3, x]", "[1, 2, 3, 4, 5]", "1, 2, 3, 4"])
def test_a_crop_that_is_no_box_is_refused(suffix: str) -> None:
    with pytest.raises(DataError, match=r"'a\.jpg###.*' is no"):
        split_crop("a.jpg###" + suffix)


def test_a_conversation_reads_llavas_layout() -> None:
    row = {
        "id": "7",
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": 3}],
    }
    read = Conversation.model_validate_json(json.dumps(row))
    assert read == Conversation(
        id="7", image=("a.jpg",), turns=(Message("user", "<image>\nHow many?"), Message("assistant", "3"))
    )
    assert read.views() == [("a.jpg", None)]


def test_a_benchmark_row_survives_the_round_trip(shared: Path) -> None:
    for path in sorted((shared / "reference_data" / "benchmark").glob("*.json")):
        rows = json.loads(path.read_text())
        assert [row.to_disk() for row in Rows(path, Conversation)] == rows


@pytest.mark.parametrize(
    ("folder", "kind"), [("metadata", MetadataRow), ("benchmark_det", DetectionRow), ("refcoco", RefcocoRow)]
)
def test_every_real_row_is_read(shared: Path, folder: str, kind: type[Row]) -> None:
    files = sorted((shared / "reference_data" / folder).glob("*.jsonl"))
    assert files
    for path in files:
        with path.open() as lines:
            expected = sum(1 for line in lines if line.strip())
        assert sum(1 for _ in Rows(path, kind)) == expected


METADATA = {
    "question": "q?",
    "answer": "a",
    "image": "x.jpg",
    "width": 10,
    "height": 8,
    "bboxs": [[1, 2, 3, 4]],
    "dataset": "d",
    "split": "train",
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bboxs": []}, r"field 'bboxs': .*at least 1 item"),
        ({"bboxs": [[1, 2, 3]]}, r"field 'bboxs.0.3' is missing"),
        ({"bboxs": [[1, 2, 3, "x"]]}, r"field 'bboxs.0.3': .*\(found 'x'\)"),
        ({"bboxs": [[1, 2, 3, float("inf")]]}, r"field 'bboxs.0.3': .*finite"),
        ({"width": 0}, r"field 'width': .*greater than 0 \(found 0\)"),
        ({"question": None}, r"field 'question': .*\(found None\)"),
    ],
)
def test_a_bad_row_names_file_line_field_and_value(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(
        json.dumps(METADATA) + "\n" + json.dumps(METADATA | change) + "\n" + json.dumps(METADATA) + "\n"
    )
    with pytest.raises(
        DataError, match=r"m\.jsonl:2: " + says + ".*; correct the row, or pass --skip-bad 1 "
    ):
        list(Rows(path, MetadataRow, skip_bad=0))
    rows = Rows(path, MetadataRow, skip_bad=1)
    assert len(list(rows)) == 2
    assert len(rows.bad) == 1 and "m.jsonl:2" in rows.bad[0]


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        (
            {"from": "critic", "value": "x"},
            r"field 'conversations.0.from': .* 'human', 'gpt', 'user', .* \(found 'critic'\)",
        ),
        ({"from": "gpt"}, r"field 'conversations.0.value' is missing"),
        ({"from": "gpt", "value": None}, r"field 'conversations.0.value': .*\(found None\)"),
    ],
)
def test_a_bad_turn_is_named(tmp_path: Path, turn: dict[str, object], says: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps([{"id": 1, "conversations": [turn]}], indent=1))
    with pytest.raises(DataError, match=r"c\.json:2: " + says):
        list(Rows(path, Conversation))


def test_one_bad_row_too_many_stops(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("{}\nnonsense\n" + json.dumps(METADATA) + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl:2: the row is not valid JSON .* --skip-bad 2"):
        list(Rows(path, MetadataRow, skip_bad=1))
    assert len(list(Rows(path, MetadataRow, skip_bad=2))) == 1


def test_several_regions_become_one_box() -> None:
    row = MetadataRow.model_validate(METADATA | {"bboxs": [[1, 2, 30, 40], [100, 5, 20, 600]]})
    assert row.box == Box(1, 2, 30, 600, Frame.ORIGINAL)
