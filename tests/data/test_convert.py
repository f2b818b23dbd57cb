"""Metadata rows become the conversations the reference's converter writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viscot_core.data.annotations import Conversation, MetadataRow, Rows
from viscot_core.data.convert import convert, to_conversation
from viscot_core.errors import DataError

ROW = {
    "question": "What is it?",
    "answer": "é",
    "image": "x.jpg",
    "width": 640,
    "height": 481,
    "bboxs": [[1.9, 2.9, 30.9, 40.9]],
    "dataset": "textcap",
    "split": "train",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_references_conversations_are_reproduced(shared: Path, tmp_path: Path) -> None:
    golden = json.loads((shared / "golden" / "golden_convert.json").read_text())
    for name in ("cub", "sroie", "vsr", "handmade"):
        cases = golden[name]
        out = tmp_path / f"{name}.json"
        done = convert([write(tmp_path / f"{name}.jsonl", *(case["input"] for case in cases))], out)
        assert json.loads(out.read_text()) == [case["output"] for case in cases]
        assert done.counts.total() == len(cases)


def test_textcap_reads_textvqas_images() -> None:
    row = to_conversation(MetadataRow.model_validate(ROW), 3)
    assert row.id == 3
    assert row.image == ("cot/textvqa/x.jpg", "cot/textvqa/x.jpg###[1, 2, 30, 40]")


@pytest.mark.parametrize("name", ["out.json", "out.jsonl"])
def test_rows_are_numbered_through_all_files_and_read_back(tmp_path: Path, name: str) -> None:
    first, second = (
        write(tmp_path / "a.jsonl", ROW, ROW),
        write(tmp_path / "b.jsonl", ROW | {"dataset": "gqa"}),
    )
    done = convert([first, second], tmp_path / "new" / name)
    assert done.counts == {"textcap": 2, "gqa": 1}
    assert [row.id for row in Rows(tmp_path / "new" / name, Conversation)] == [0, 1, 2]


def test_an_empty_region_list_is_told_not_a_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROW, ROW | {"bboxs": []}, ROW)
    with pytest.raises(DataError, match=r"a\.jsonl:2: field 'bboxs'"):
        convert([path], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
    done = convert([path], tmp_path / "out.json", skip_bad=1)
    assert len(done.bad) == 1 and len(json.loads((tmp_path / "out.json").read_text())) == 2


def test_reasoning_stands_before_the_answer(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", ROW | {"thoughts": ["First.", "Then."]}, ROW | {"thought": "Once."}, ROW
    )
    done = convert([path], tmp_path / "out.json", with_reasoning=True)
    answers = [row.turns[-1].text for row in Rows(tmp_path / "out.json", Conversation)]
    assert answers == ["First. Then. é", "Once. é", "é"]
    assert done.without_reasoning == 1
    with pytest.raises(DataError, match="no row has reasoning steps"):
        convert([write(tmp_path / "b.jsonl", ROW)], tmp_path / "b.json", with_reasoning=True)
