"""``viscot data synth --kind vstar|hrbench|...``: small drawn benchmarks in the formats of the real ones.

Each question asks for the number on a card of a drawn scene, which no model can read in the whole image; the
options are four numbers. The same arguments give the same bytes. They test a pipeline and measure nothing.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import Window
from viscot_core.data.scenes import draw_scene, make_scene
from viscot_core.data.synth import HELD_OUT_SEED, QUESTIONS, write_json, write_jsonl
from viscot_core.errors import check_choice
from viscot_core.files import atomic_folder

SEED_OF_BENCHMARKS = 2**61
"""Between the training scenes and the held-out ones, so that no scene is also one of those."""
LETTERS = "ABCDE"
NOT_THERE = "The image does not feature the answer."


@dataclass(frozen=True, slots=True)
class MadeQuestion:
    """A drawn question; ``options[0]`` is right. ``data`` is its image as a JPEG file."""

    name: str
    data: bytes
    question: str
    options: tuple[str, ...]
    box: Window

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode()


def write_benchmark(out: Path, kind: str, *, count: int, seed: int = 0) -> dict[str, int]:
    """Write ``count`` questions into the folders of ``kind`` under the data root ``out``; returns row counts.

    Raises:
        UsageError: an unknown kind, or a folder that is not empty.
    """
    check_choice("--kind", kind, KINDS)
    counts: dict[str, int] = {}
    for folder, write in KINDS[kind].items():
        with atomic_folder(out / folder) as building:
            made = write(building, list(_questions(count, seed)))
        counts |= {f"{folder}/{name}": rows for name, rows in made.items()}
    return counts


def _questions(count: int, seed: int) -> Iterator[MadeQuestion]:
    assert SEED_OF_BENCHMARKS < HELD_OUT_SEED
    for number in range(count):
        place = SEED_OF_BENCHMARKS + seed * 10_000_000 + number
        scene, rng = make_scene(place), random.Random(f"benchmark-{place}")
        thing = rng.choice(scene.things)
        others = {thing.text}
        while len(others) < 4:
            others.add(str(rng.randrange(10 ** (len(thing.text) - 1), 10 ** len(thing.text))))
        wrong = sorted(others - {thing.text})
        file = io.BytesIO()
        draw_scene(scene).save(file, "JPEG", quality=92)
        question = rng.choice(QUESTIONS).format(color=thing.color, noun=thing.noun)
        yield MadeQuestion(f"scene_{number:04d}", file.getvalue(), question, (thing.text, *wrong), thing.box)


# -- one writer a format


def _vstar(folder: Path, made: list[MadeQuestion]) -> dict[str, int]:
    """A JSON file and an image for each question, in two folders; every third one has two options."""
    counts = {"direct_attributes": 0, "relative_position": 0}
    for number, question in enumerate(made):
        kind = "relative_position" if number % 3 == 2 else "direct_attributes"
        counts[kind] += 1
        x0, y0, x1, y1 = question.box
        row = {
            "target_object": [question.question],
            "bbox": [[x0, y0, x1 - x0, y1 - y0]],
            "question": question.question,
            "options": question.options[: 2 if number % 3 == 2 else 4],
        }
        path = folder / kind / f"{question.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        path.with_suffix(".jpg").write_bytes(question.data)
    return counts


def _hrbench(folder: Path, made: list[MadeQuestion]) -> dict[str, int]:
    """Each question four times, its options rotated, so that the right one is A, B, C and D once."""
    rows = []
    for number, question in enumerate(made):
        for turn in range(4):
            options = question.options[-turn:] + question.options[:-turn] if turn else question.options
            rows.append(
                {
                    "index": 4 * number + turn,
                    "question": question.question,
                    **dict(zip(LETTERS, options, strict=False)),
                    "answer": LETTERS[turn],
                    "category": "single" if number % 2 == 0 else "cross",
                    "cycle_category": turn,
                    "image": question.base64,
                }
            )
    return {"hr_bench.tsv": _write_tsv(folder / "hr_bench.tsv", rows)}


def _treebench(folder: Path, made: list[MadeQuestion]) -> dict[str, int]:
    """One row a question, with the boxes of the evidence as text."""
    rows = []
    for number, question in enumerate(made):
        at = number % 4
        options = (*question.options[1 : at + 1], question.options[0], *question.options[at + 1 :])
        rows.append(
            {
                "index": number,
                "question": question.question,
                **dict(zip(LETTERS, options, strict=False)),
                "answer": LETTERS[at],
                "category": "Perception/OCR",
                "target_instances": json.dumps([[float(part) for part in question.box]]),
                "image": question.base64,
            }
        )
    return {"TreeBench.tsv": _write_tsv(folder / "TreeBench.tsv", rows)}


def _visualprobe(folder: Path, made: list[MadeQuestion]) -> dict[str, int]:
    """``val.json`` with the names of images; the answers are open, some with a full stop."""
    rows = []
    for number, question in enumerate(made):
        path = folder / "data" / f"{question.name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(question.data)
        stop = "." if number % 4 == 3 else ""
        rows.append(
            {
                "doc_id": number,
                "images": [f"data/{path.name}"],
                "problem": f"<image>\n{question.question}",
                "solution": f"{question.options[0]}{stop}",
            }
        )
    return {"val.json": write_json(folder / "val.json", rows)}


def _zoombench(folder: Path, made: list[MadeQuestion]) -> dict[str, int]:
    """``query`` and ``response``; every second question holds its options, and its answer is a letter."""
    rows = []
    for number, question in enumerate(made):
        query, response = question.question, question.options[0]
        if number % 2:
            options = [*question.options[1:3], question.options[0]]
            lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
            query, response = "\n".join([query, *lines]), "C"
        kind = "mcq" if number % 2 else "open"
        row = {"id": number, "query": query, "response": response, "question_type": kind}
        rows.append({**row, "image": question.base64})
    return {"test.jsonl": write_jsonl(folder / "test.jsonl", rows)}


def _mme_realworld(folder: Path, made: list[MadeQuestion]) -> dict[str, int]:
    """Five options with their letters in one list, the last of them "not in the image"."""
    rows = []
    for number, question in enumerate(made):
        at = number % 4
        options = [*question.options[1 : at + 1], question.options[0], *question.options[at + 1 :], NOT_THERE]
        rows.append(
            {
                "index": number,
                "question": question.question,
                "multi-choice options": [
                    f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)
                ],
                "answer": LETTERS[at],
                "category": "Perception/OCR with Complex Context",
                "l2-category": "scene",
                "bytes": question.base64,
            }
        )
    return {"train.jsonl": write_jsonl(folder / "train.jsonl", rows)}


def _write_tsv(path: Path, rows: list[dict[str, Any]]) -> int:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["index"], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


Writer = Callable[[Path, list[MadeQuestion]], dict[str, int]]
KINDS: dict[str, dict[str, Writer]] = {
    "vstar": {"bench/vstar": _vstar},
    "hrbench": {"bench/hrbench4k": _hrbench, "bench/hrbench8k": _hrbench},
    "treebench": {"bench/treebench": _treebench},
    "visualprobe": {"bench/visualprobe": _visualprobe},
    "zoombench": {"bench/zoombench": _zoombench},
    "mme-realworld-lite": {"bench/mme-realworld-lite": _mme_realworld},
}
"""By kind: the folders under the data root, and what writes each."""


def kind_of(folder: str) -> str | None:
    """The kind that writes a folder of a data root."""
    return next((kind for kind, folders in KINDS.items() if folder in folders), None)
