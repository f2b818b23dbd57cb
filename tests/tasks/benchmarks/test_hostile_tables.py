"""Files of benchmarks as nobody should write them: a sentence that names file and row, or a right reading."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from viscot_core.errors import DataError
from viscot_core.tasks.benchmarks.entry import BenchmarkRow
from viscot_core.tasks.benchmarks.tables import read_table
from viscot_core.tasks.benchmarks.task import Benchmarks
from viscot_core.tasks.benchmarks.vstar import read_vstar


def png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


ROW: dict[str, Any] = {"index": 0, "question": "What?", "A": "x", "B": "y", "answer": "B", "image": png()}


def tsv(folder: Path, *rows: dict[str, Any], start: str = "") -> list[BenchmarkRow]:
    lines = ["\t".join(rows[0]), *("\t".join(str(cell) for cell in row.values()) for row in rows)]
    (folder / "t.tsv").write_text(start + "\n".join(lines) + "\n", encoding="utf-8")
    return list(read_table(folder))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": ""}, "it has no question"),
        ({"answer": ""}, "it has no answer"),
        ({"answer": "C"}, "'C' is none of its 2 options"),
        ({"answer": "z" * 5000}, "its answer 'zzz"),
        ({"A": "x", "B": "", "C": "z", "answer": "A"}, "it has an option C and no option B"),
        ({"image": "@@@" * 200}, "its image is not base64"),
        ({"image": "aGVsbG8gd29ybGQ" * 40}, "its image is"),
        ({"image": ""}, "it has no image"),
        ({"image": "../../etc/passwd.png"}, "leads outside"),
        ({"answer": "B\textra"}, "more cells than the table has columns"),
        ({"target_instances": "[[1, 2, 3]]"}, "not enough values"),
        ({"target_instances": "[" * 20_000}, "t.tsv: row 1 is no question of a benchmark"),
        ({"options": "[" * 20_000}, "t.tsv: row 1 is no question of a benchmark"),
        ({"options": "__import__('os').abort()"}, "is none of its 1 options"),
    ],
    ids=range(14),
)
def test_a_damaged_row_is_one_short_sentence(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as raised:
        tsv(tmp_path, {**ROW, **change})
    said = str(raised.value)
    assert reason in said and "\n" not in said and len(said) < len(str(tmp_path)) + 400


def test_what_a_table_may_have(tmp_path: Path) -> None:
    """A byte order mark before the first column's name, line breaks in base64, HTML in a question."""
    (one,) = tsv(tmp_path, {**ROW, "question": "<b>What?</b> &amp;"}, start="\ufeff")
    assert (one.id, one.question, one.options, one.right) == ("0", "<b>What?</b> &amp;", ("x", "y"), 1)
    broken = "\n".join(png()[at : at + 60] for at in range(0, len(png()), 60))
    (tmp_path / "t.tsv").unlink()
    (tmp_path / "t.json").write_text(json.dumps([{**ROW, "image": broken}]))
    (other,) = read_table(tmp_path)
    assert other.image == one.image


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("t.tsv", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "row 1 is no question"),
        ("t.json", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "t.json"),
        ("t.parquet", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "t.parquet"),
        (
            "t.jsonl",
            b'"question"\n',
            "row 1 is no question of a benchmark (the row is no JSON object)",
        ),
        ("t.jsonl", b'{"question": "\n', "row 1 is no question of a benchmark (the row is not valid JSON"),
        ("t.tsv", "question\tanswer\nWas?\tja\n".encode("utf-16"), "is damaged"),
        (
            "t.json",
            json.dumps([{**ROW, "answer": True}]).encode(),
            "its answer True is none of its 2 options",
        ),
        ("t.tsv", b"question\tanswer\timage\n", "holds no question"),
    ],
    ids=range(8),
)
def test_a_file_of_something_else(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    folder = tmp_path / "bench" / "treebench"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    with pytest.raises(DataError) as raised:
        Benchmarks(tmp_path, ("treebench",)).load()
    assert reason in str(raised.value) and str(folder) in str(raised.value)


def test_two_rows_of_one_id_are_named_shortly(tmp_path: Path, cli: Callable[..., Any]) -> None:
    folder = tmp_path / "bench" / "treebench"
    folder.mkdir(parents=True)
    row = {**ROW, "index": "long" * 100}
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for _ in range(2)))
    ran = cli("bench", "tsv", "treebench", "--data", tmp_path, "--out", tmp_path / "T.tsv")
    assert ran.code == 1 and "two questions have the id long" in ran.err and len(ran.err) < 400
    assert not (tmp_path / "T.tsv").exists()


@pytest.mark.parametrize(
    "row",
    [
        {"question": "What?", "options": "red"},
        {"question": None, "options": ["red", "blue"]},
        {"question": "What?", "options": []},
        {"question": "What?", "options": ["red"], "bbox": [[1, 2]]},
        ["red"],
    ],
    ids=range(5),
)
def test_a_file_of_vstar_that_is_no_question(tmp_path: Path, row: object) -> None:
    (tmp_path / "direct_attributes").mkdir()
    (tmp_path / "direct_attributes" / "a.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"a\.json is no question of V"):
        list(read_vstar(tmp_path))
