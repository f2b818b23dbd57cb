"""VLMEvalKit's own code reads and scores our TSV, where it is installed; and its reader of letters is ours.

`make vlmevalkit` installs it into ``.vlmevalkit``, or ``VISCOT_VLMEVALKIT`` names a Python that has it and
neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from viscot_core.data.benchmarks.synth import KINDS, write_benchmark
from viscot_core.images.reading import open_image
from viscot_core.tasks.answers.reading import LETTERS
from viscot_core.tasks.base import Item
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS
from viscot_core.tasks.benchmarks.task import Benchmarks
from viscot_core.tasks.visual_cot.task import VisualCot
from viscot_core.tasks.vlmevalkit_export import write_vlmevalkit

SIDE = Path(__file__).parents[1] / "support" / "vlmevalkit_side.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python() -> str:
    own = Path(__file__).parents[2] / ".vlmevalkit/bin/python"
    named = os.environ.get("VISCOT_VLMEVALKIT") or (str(own) if own.exists() else "")
    if not named:
        pytest.skip("no VLMEvalKit here: make vlmevalkit, or VISCOT_VLMEVALKIT=PYTHON")
    return named


@dataclass(frozen=True)
class Kit:
    """``kit(Mine={"right": ["A", "B"]})``: what it makes of ``LMUData/Mine.tsv`` and of these replies."""

    python: str
    folder: Path

    def __call__(self, **replies: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
        for name, said in replies.items():
            (self.folder / f"{name}.replies.json").write_text(json.dumps(said), encoding="utf-8")
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        ran = subprocess.run(
            [self.python, str(SIDE), *replies],
            env={**kept, "LMUData": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        found: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
        return found


@pytest.fixture
def kit(python: str, tmp_path: Path) -> Kit:
    folder = tmp_path / "LMUData"
    folder.mkdir()
    return Kit(python, folder)


def pixels(path: Path) -> str:
    return hashlib.sha256(open_image(path).tobytes()).hexdigest()


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", "")


def test_its_loader_asks_what_we_ask_and_scores_it(kit: Kit, tmp_path: Path, cli: Callable[..., Any]) -> None:
    asked, replies = {}, {}
    for number, (name, benchmark) in enumerate(BENCHMARKS.items()):
        data = tmp_path / "data"
        if not (data / benchmark.folder).exists():
            kind = next(kind for kind, folders in KINDS.items() if benchmark.folder in folders)
            write_benchmark(data, kind, count=6)
        table = f"Mine{number}"
        assert cli("bench", "tsv", name, "--data", data, "--out", kit.folder / f"{table}.tsv").code == 0
        items = asked[table] = Benchmarks(data, (name,)).load().items
        replies[table] = {}
        if all("options" in item.facts for item in items):
            right = [str(item.reference)[:1] for item in items]
            wrong = ["B" if letter == "A" else "A" for letter in right]
            half = right[: len(right) // 2] + wrong[len(right) // 2 :]
            sentences = [f"The answer is {letter}." for letter in right]
            replies[table] = {"right": right, "sentences": sentences, "wrong": wrong, "half": half}
    found = kit(**replies)
    for table, items in asked.items():
        same_rows(found[table], items, choices=bool(replies[table]))
        if replies[table]:
            assert found[table]["scores"] == {"right": 1.0, "sentences": 1.0, "wrong": 0.0, "half": 0.5}
    assert sum(len(read["rows"]) for read in found.values()) == 78
    assert sum(len(said) for said in replies.values()) == 20


def same_rows(read: dict[str, Any], items: Sequence[Item], *, choices: bool) -> None:
    assert read["class"] == ("CustomMCQDataset" if choices else "CustomVQADataset")
    for row, item in zip(read["rows"], items, strict=True):
        assert row["pixels"] == hashlib.sha256(open_image(item.path).tobytes()).hexdigest()
        # A no-break space is the mark of a text that pandas would read as a number or as missing.
        prompt = row["prompt"].replace("\N{NO-BREAK SPACE}", "")
        if choices:
            lines = [f"{a}. {b}" for a, b in zip(LETTERS, item.facts["options"], strict=False)]
            assert "\n".join(["Options:", *lines, "Please"]) in prompt
        else:
            assert item.question.startswith(prompt)


def test_the_visual_cot_benchmark_comes_whole(root: Path, kit: Kit, cli: Callable[..., Any]) -> None:
    assert cli("bench", "tsv", "cot", "--data", root, "--out", kit.folder / "VisualCoT.tsv").code == 0
    read = kit(VisualCoT={})["VisualCoT"]
    same_rows(read, VisualCot(root).load().items, choices=False)
    assert read["rows"][3]["prompt"] == "What is at Place 3?"
    assert read["rows"][3]["row"]["answer"] == "thing 3" and read["rows"][3]["row"]["category"] == "made"
    assert len({row["pixels"] for row in read["rows"]}) == 6


TRAPS = (
    "None",
    "NA",
    "007",
    "1.50",
    "30",
    'a "quoted" one',
    "two\nlines",
    "a\ttab",
    "a\rreturn",
    "é",
    "true",
    "1e5",
)


def test_no_text_is_guessed_to_be_something_else(kit: Kit, tmp_path: Path) -> None:
    """Each trap alone in its column, with and without cells left empty, and all of them in one column."""
    image = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (40, 30), (200, 10, 90, 0)).save(image)
    tables = {"All": [("x", trap) for trap in TRAPS]}
    for number, trap in enumerate(TRAPS):
        tables[f"Full{number}"] = [("x", trap)] * 3
        tables[f"Gaps{number}"] = [("x", trap), ("x", trap, trap)]
    asked = {
        table: [made(options, number % len(options), image, number) for number, options in enumerate(rows)]
        for table, rows in tables.items()
    }
    for table, items in asked.items():
        write_vlmevalkit(items, kit.folder / f"{table}.tsv")
    found = kit(**{table: {"right": [str(i.reference)[:1] for i in items]} for table, items in asked.items()})
    for table, items in asked.items():
        same_rows(found[table], items, choices=True)
        assert found[table]["scores"] == {"right": 1.0}, table


def made(options: tuple[str, ...], at: int, path: Path, number: int) -> Item:
    lines = "\n".join(f"{a}. {b}" for a, b in zip(LETTERS, options, strict=False))
    return Item(
        dataset="made",
        question_id=f"0{number}",
        image=path.name,
        path=path,
        size=(40, 30),
        question=f"What is {number}?\n{lines}",
        box=None,
        reference=f"{LETTERS[at]}. {options[at]}",
        facts={"options": options},
    )


def test_the_golden_readings_are_its_own(python: str) -> None:
    """``traps.json``, on which ``score --protocol vlmevalkit`` is tested, is what ``can_infer`` reads."""
    rows = json.loads((Path(__file__).parent / "answers" / "traps.json").read_text(encoding="utf-8"))
    asked = json.dumps([[row["reply"], dict(zip(LETTERS, row["options"], strict=False))] for row in rows])
    ran = subprocess.run(
        [python, str(SIDE), "--infer"], input=asked, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == [row["vlmevalkit"] for row in rows]
