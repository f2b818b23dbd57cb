"""The TSV for VLMEvalKit: what its loader does with one, done here; and our own reader reads it back."""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viscot_core.data.benchmarks.synth import write_benchmark
from viscot_core.policies.wording import LETTER
from viscot_core.tasks.benchmarks.task import Benchmarks

BASE64_FROM = 64
"""VLMEvalKit, dataset/image_base.py: a shorter ``image`` is the index of the row that has it."""


def rows_of(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def images_of(rows: list[dict[str, str]]) -> list[bytes]:
    by_index = {row["index"]: row["image"] for row in rows}
    texts = [by_index[row["image"]] if len(row["image"]) <= BASE64_FROM else row["image"] for row in rows]
    return [base64.b64decode(text, validate=True) for text in texts]


def test_a_multiple_choice_goes_out_and_comes_back(tmp_path: Path, cli: Callable[..., Any]) -> None:
    write_benchmark(tmp_path / "data", "hrbench", count=4)
    folder = tmp_path / "back" / "bench" / "hrbench4k"
    folder.mkdir(parents=True)
    ran = cli("bench", "tsv", "hrbench4k", "--data", tmp_path / "data", "--out", folder / "HR.tsv")
    assert ran.code == 0 and "16 rows" in ran.out
    rows = rows_of(folder / "HR.tsv")
    assert {"index", "question", "A", "B", "answer", "image"} <= set(rows[0])
    assert [row["answer"] for row in rows[:4]] == list("ABCD") and "\n" not in rows[0]["question"]
    items = Benchmarks(tmp_path / "data", ("hrbench4k",)).load().items
    assert images_of(rows) == [item.path.read_bytes() for item in items]
    back = Benchmarks(tmp_path / "back", ("hrbench4k",)).load().items
    assert [item.question for item in back] == [item.question for item in items]
    assert [item.path.read_bytes() for item in back] == [item.path.read_bytes() for item in items]


def test_the_visual_cot_benchmark(root: Path, cli: Callable[..., Any]) -> None:
    out = root.parent / "VisualCoT.tsv"
    assert cli("bench", "tsv", "cot", "--data", root, "--out", out).code == 0
    rows = rows_of(out)
    assert len(rows) == 12 and "A" not in rows[0]
    assert rows[3]["question"] == "What is at Place 3?" and rows[3]["answer"] == "thing 3"
    assert rows[3]["category"] == "made" and len({*map(len, images_of(rows))}) > 1
    assert sum(len(row["image"]) > BASE64_FROM for row in rows) == 6  # an image stands in the file once


def test_open_questions_among_the_others_make_no_multiple_choice(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    """VLMEvalKit scores a file with a column A as a choice, the rows without options too."""
    write_benchmark(tmp_path / "data", "zoombench", count=2)
    out = tmp_path / "Zoom.tsv"
    assert cli("bench", "tsv", "zoombench", "--data", tmp_path / "data", "--out", out).code == 0
    plain, choice = rows_of(out)
    assert "A" not in plain and "\n" not in plain["question"] and plain["answer"].isdigit()
    assert "\nA. " in choice["question"] and choice["question"].endswith(LETTER) and choice["answer"] in "ABC"
