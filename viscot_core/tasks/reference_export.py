"""Words on record in the reference's own result files, so that its scorer can read new runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from viscot_core.boxes.geometry import WHOLE
from viscot_core.conversation import IMAGE, Message
from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.images.view import View
from viscot_core.paths import inside
from viscot_core.policies.base import Question
from viscot_core.rollout import replay
from viscot_core.tasks.base import Item, Settings
from viscot_core.tasks.refcoco import REFCOCO_STRATEGY, load_refcoco
from viscot_core.tasks.reference_files import NO_IMAGES, RecordedWords
from viscot_core.tasks.visual_cot.strategies import STRATEGIES
from viscot_core.tasks.visual_cot.task import load_visual_cot

Prompt = Callable[[Sequence[Message]], str]
"""Messages as the text that the model continued."""
_SETTINGS: Settings = {"box_format": "viscot"}


def write_results(
    words: Iterable[RecordedWords], data: Path, model: str, prompt: Prompt, out: Path
) -> list[Path]:
    """Write finished items as the reference's files under ``out``; the paths written.

    ``detection/NAME.jsonl`` are cot's boxes, ``results/STRATEGY/NAME.jsonl`` the answers, ``refcoco/*.jsonl``
    the boxes of expressions. Files of boxes are read by line there, so they are only written whole.

    Raises:
        DataError: boxes of a data set are not all there.
    """
    by_set: dict[tuple[str, str], dict[str, RecordedWords]] = {}
    for said in words:
        by_set.setdefault((said.strategy, said.dataset), {})[str(said.question_id)] = said
    written = []
    for (strategy, dataset), found in by_set.items():
        if strategy == REFCOCO_STRATEGY:
            benchmark = load_refcoco(data, splits=[dataset], select=NO_IMAGES)
            target = inside(out, f"refcoco/{benchmark.files[dataset]}.jsonl")
            written.append(_write(target, _expression_rows(benchmark.items, found, model)))
            continue
        items = load_visual_cot(data, tasks=[dataset], select=NO_IMAGES).items
        if strategy == "cot":
            written.append(_write(inside(out, f"detection/{dataset}.jsonl"), _box_rows(items, found, model)))
        answers = _answer_rows(items, found, model, prompt)
        if answers:
            written.append(_write(inside(out, f"results/{strategy}/{dataset}.jsonl"), answers))
    return written


def _box_rows(items: Sequence[Item], found: Mapping[str, RecordedWords], model: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for item, said in _all_of(items, found):
        (first, *_) = _conversations(item, said)
        prompt = first[0].text.removeprefix(f"{IMAGE}\n")
        # The reference's own files of boxes have 0 in every row, and its scorer goes by line.
        made.append({"question_id": 0, "prompt": prompt, "text": said.box_text, **_about(item, said, model)})
    return made


def _expression_rows(
    items: Sequence[Item], found: Mapping[str, RecordedWords], model: str
) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for item, said in _all_of(items, found):
        # The reference's file holds this sentence, not the one that its model was asked with.
        prompt = f"What are the coordinates of {item.question.lower()} in the image {IMAGE}?"
        made.append({"prompt": prompt, "text": said.box_text, **_about(item, said, model)})
    return made


def _answer_rows(
    items: Sequence[Item], found: Mapping[str, RecordedWords], model: str, prompt: Prompt
) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for item in items:
        said = found.get(str(item.question_id))
        if said is None or said.answer is None:
            continue
        made.append(
            {
                "question_id": item.question_id,
                "conversations": prompt(_conversations(item, said)[-1]),
                "text": said.answer,
                "answer_id": _id(said),
                "model_id": model,
                "prompt": f"{item.question} ",
                "metadata": {},
            }
        )
    return made


def _conversations(item: Item, said: RecordedWords) -> list[tuple[Message, ...]]:
    """What the model was to continue, turn by turn; the words decide them, so a blank image will do."""
    strategy = STRATEGIES[said.strategy]
    blank = View(Image.new("1", item.size), "")
    question = Question(item.question, (blank,), said.region or WHOLE, said.box_text or "")
    steps, _ = replay(strategy.policy(_SETTINGS), question, [said.box_text or ""])
    return [step.messages for step in steps]


def _all_of(items: Sequence[Item], found: Mapping[str, RecordedWords]) -> list[tuple[Item, RecordedWords]]:
    absent = [item.name for item in items if str(item.question_id) not in found]
    if absent:
        raise DataError(
            f"{len(absent)} of {len(items)} boxes are not there (the first is {absent[0]}); the reference "
            "reads by line, so finish the run without --limit first."
        )
    return [(item, found[str(item.question_id)]) for item in items]


def _about(item: Item, said: RecordedWords, model: str) -> dict[str, Any]:
    assert item.box is not None
    return {
        "bbox": list(item.box.coords),
        "height": item.size[1],
        "width": item.size[0],
        "answer_id": _id(said),
        "model_id": model,
        "metadata": {},
    }


def _id(said: RecordedWords) -> str:
    """A name for the line that is the same whenever it is written."""
    key = (said.strategy, said.dataset, str(said.question_id))
    return hashlib.sha256("/".join(key).encode()).hexdigest()[:22]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    with atomic_write(path) as file:
        for row in rows:
            file.write(orjson.dumps(row).decode() + "\n")
    return path
