"""Rows of one layout as those of another: nothing changes on the way, and a failure leaves nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from documented_rows import EXAMPLES, write_documented

from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.data.encode import load_views
from viscot_core.data.formats.layouts import RowLayout
from viscot_core.data.formats.read import Reader
from viscot_core.data.formats.write import convert_rows
from viscot_core.errors import DataError


def _converted(source: Path, out: Path, target: str, images: Path) -> list[Any]:
    convert_rows(Reader(source, images, None, out.parent), out, RowLayout(target))
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("way", ["messages", "trace"])
def test_llava_rows_come_back_as_they_were(way: str, images: Path) -> None:
    start = write_documented(images, EXAMPLES["llava"][1])
    _converted(start, images / "there.jsonl", way, images)
    back = _converted(images / "there.jsonl", images / "back.jsonl", "llava", images)
    again = Conversation.model_validate(back[0])
    first = Conversation.model_validate(EXAMPLES["llava"][1])
    assert again.turns == first.turns
    shown = [[view.image.tobytes() for view in load_views(images, row.image)] for row in (again, first)]
    assert shown[0] == shown[1], "the same pixels are shown"
    if way == "messages":
        assert again == first


def test_messages_keep_what_is_not_learned_through_a_trace(images: Path) -> None:
    start = write_documented(images, EXAMPLES["messages"][1])
    (trace,) = _converted(start, images / "t.jsonl", "trace", images)
    assert trace["messages"][1]["learn"] is False
    (back,) = _converted(images / "t.jsonl", images / "m.jsonl", "messages", images)
    assert back["messages"] == EXAMPLES["messages"][1]["messages"]


def test_a_trace_is_written_back_as_it_was_and_counted_where_it_cannot(images: Path) -> None:
    from viscot_core.data.traces.trace import Trace

    start = write_documented(images, EXAMPLES["trace"][1])
    (same,) = _converted(start, images / "t.jsonl", "trace", images)
    assert Trace.model_validate(same) == Trace.model_validate(EXAMPLES["trace"][1])
    done = convert_rows(Reader(start, images), images / "l.json", RowLayout.LLAVA)
    assert sum(done.lost.values()) == 1
    assert [split_crop(name)[0] for name in json.loads((images / "l.json").read_text())[0]["image"]] == [
        "card.png"
    ] * 3


def test_a_conversion_that_fails_leaves_neither_rows_nor_images(images: Path) -> None:
    data = "data:image/png;base64," + base64.b64encode((images / "card.png").read_bytes()).decode()
    row = {**EXAMPLES["messages"][1], "images": [data]}
    out = images / "out"
    path = write_documented(images, row, {"messages": 5})
    with pytest.raises(DataError, match="row 1"):
        convert_rows(Reader(path, images, None, out), out / "rows.jsonl", RowLayout.MESSAGES)
    assert not out.exists()
    done = convert_rows(Reader(path, images, None, out), out / "rows.jsonl", RowLayout.MESSAGES, skip_bad=1)
    (kept,) = (out / "images").iterdir()
    assert (done.rows, kept.read_bytes()) == (1, (images / "card.png").read_bytes())
    with pytest.raises(DataError, match="row 1"):
        convert_rows(Reader(path, images, None, out), out / "again.jsonl", RowLayout.MESSAGES)
    assert kept.exists(), "what an earlier conversion wrote stays"


def test_a_row_whose_image_is_not_there_is_left_out_of_traces_by_number(images: Path) -> None:
    row = EXAMPLES["llava"][1]
    gone = {**row, "image": ["gone.png", "gone.png###[1, 2, 30, 40]"]}
    path = write_documented(images, row, gone)
    done = convert_rows(Reader(path, images), images / "t.jsonl", RowLayout.TRACE, skip_bad=1)
    assert done.rows == 1 and str(done.bad[0]).startswith("row 1, images: ")
