"""For the tests of benchmarks: a small data root in the published layout, an engine that makes words up."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from viscot_core.boxes.attention_map import AttentionMap
from viscot_core.boxes.geometry import Box, Frame, format_box
from viscot_core.conversation import BOX_REQUEST, IMAGE, Message
from viscot_core.engines.base import Engine, Generation, Request, Traits
from viscot_core.families.table import text_template
from viscot_core.runs.answering import Pending, answer_queries
from viscot_core.runs.opening import Query, open_items
from viscot_core.runs.records import Prediction
from viscot_core.tasks.base import Item, Task


def ask_items(
    task: type[Task],
    engine: Engine,
    items: Sequence[Item],
    names: Sequence[str] = ("cot",),
    **settings: object,
) -> list[Prediction | Pending]:
    """What becomes of every item under each of the strategies; ``settings`` as ``run.json`` has them."""
    queries = [Query(loaded, name) for loaded in open_items(items) for name in names]
    return answer_queries(task, settings, engine, queries)


def tasks_of_srun(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[int]:
    """Inside the loop this process is task 0, 1, ... of a step of ``count``; behind it, of none."""
    for task in range(count):
        with monkeypatch.context() as patch:
            patch.setenv("SLURM_STEP_NUM_TASKS", str(count))
            patch.setenv("SLURM_JOB_ID", "5")
            patch.setenv("SLURM_PROCID", str(task))
            patch.setenv("SLURM_LOCALID", str(task))
            yield task


class FakeEngine:
    """Says what ``answer`` makes of the prompt's text; counts prompts and remembers them."""

    def __init__(self, answer: Callable[[str], str | Generation] | None = None) -> None:
        self.name = "fake"
        self.identity = {"engine": "fake", "weights": "0"}
        self.traits = Traits(attention=True)
        self.prompts: list[str] = []
        self.requests: list[Request] = []
        self._answer = answer or speak

    def prompt(self, messages: Sequence[Message]) -> str:
        """As vicuna_v1 writes it."""
        return text_template("vicuna_v1").prompt(messages)

    def reset(self) -> None:
        """Nothing is kept between calls."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        said = []
        for request in requests:
            text = self.prompt(request.messages)
            self.prompts.append(text)
            self.requests.append(request)
            answer = self._answer(text)
            generation = answer if isinstance(answer, Generation) else Generation(answer, 5, True)
            attended = None if request.attention is None else AttentionMap(((1.0, 2.0), (3.0, 5.0)), side=40)
            said.append(replace(generation, attention=attended))
        return said


def speak(prompt: str) -> str:
    """A box to a detection prompt, else a word that depends on the prompt only."""
    rng = random.Random(prompt)
    if BOX_REQUEST in prompt and "</s>" not in prompt:
        return f"[0.100, 0.200, 0.{rng.randrange(300, 900)}, 0.800]"
    return f"answer {rng.randrange(1000)}"


def write_root(root: Path, *, name: str = "made", count: int = 12, images: int = 6) -> Path:
    """A data root of ``count`` questions about ``images`` images."""
    rng = random.Random(name)
    sizes = [(rng.randrange(60, 200), rng.randrange(60, 200)) for _ in range(images)]
    folder = root / "cot" / name
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number * 20, 90, 120)).save(folder / f"{number}.png")
    rows: list[dict[str, Any]] = []
    regions: list[dict[str, Any]] = []
    for number in range(count):
        drawn = number % images
        width, height = sizes[drawn]
        x, y = rng.randrange(width - 30), rng.randrange(height - 30)
        box = [x, y, x + rng.randrange(10, 30), y + rng.randrange(10, 30)]
        words = format_box(Box(*map(float, box), frame=Frame.ORIGINAL).to_square((width, height)))
        image, question = f"cot/{name}/{drawn}.png", f"What is at Place {number}?"
        spoken = [f"{IMAGE}\n{question} {BOX_REQUEST}", words, IMAGE, f"thing {number}"]
        rows.append(
            {
                "dataset": name,
                "split": "val",
                "question_id": number * 3,
                "image": [image, f"{image}###{box}"],
                "conversations": [
                    {"from": "gpt" if turn % 2 else "human", "value": text}
                    for turn, text in enumerate(spoken)
                ],
            }
        )
        regions.append(
            {
                "img_path": image,
                "expression": question,
                "bbox": box,
                "height": height,
                "width": width,
                "question_id": number * 3,
                "split": "val",
            }
        )
    (root / "benchmark").mkdir(exist_ok=True)
    (root / "benchmark_det").mkdir(exist_ok=True)
    (root / "refcoco").mkdir(exist_ok=True)
    (root / "benchmark" / f"{name}.json").write_text(json.dumps(rows))
    # Another order than the questions': rows are joined by id, never by line.
    lines = "".join(json.dumps(row) + "\n" for row in reversed(regions))
    (root / "benchmark_det" / f"{name}.jsonl").write_text(lines)
    expressions = "".join(
        json.dumps({**row, "expression": f"The thing {row['question_id']}", "sent_id": row["question_id"]})
        + "\n"
        for row in regions
    )
    (root / "refcoco" / f"REC_refcoco_{name}_val.jsonl").write_text(expressions)
    return root
