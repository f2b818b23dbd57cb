"""Many pictures, one or many questions: what ``viscot infer`` is asked for, the answers as plain records."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from viscot_core.chain import Answer, Question, Strategy, VisualCoT, check_question
from viscot_core.errors import DataError, ImageError, UsageError
from viscot_core.images import draw_answer, open_image

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings that count as pictures in a folder; a single file may have any."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one picture file."""

    image: Path
    question: str


@dataclass(frozen=True, slots=True)
class Asked:
    """An item with its answer, or with the reason (one sentence) why there is none."""

    item: Item
    answer: Answer | None
    error: str | None = None

    def record(self, model: str) -> dict[str, Any]:
        """One line of ``--json``: boxes in both frames (padded square 0..1, pixels), status, timing."""
        about = {"image": str(self.item.image), "question": self.item.question, "model": model}
        if self.answer is None:
            return {**about, "status": "failed", "error": self.error}
        return {**about, "status": "done", "error": None, **describe(self.answer)}


def describe(answer: Answer) -> dict[str, Any]:
    """An answer as plain data: the box in both frames (padded square 0..1, pixels), its status, the crop."""
    width, height = answer.size
    looked = answer.strategy == "cot"
    pixels = answer.box.to_original(answer.size).clip(answer.size).coords
    return {
        "strategy": answer.strategy,
        "answer": answer.text,
        "box": [round(c, 4) for c in answer.box.coords] if looked else None,
        "box_pixels": [round(c, 1) for c in pixels] if looked else None,
        "box_text": answer.box_text if looked else None,
        "box_status": answer.status.value if answer.status else None,
        "crop": list(answer.crop) if looked else None,
        "width": width,
        "height": height,
        "seconds": round(answer.seconds, 4),
    }


def collect(what: str, question: str | None) -> list[Item]:
    """The items behind a picture's path, a folder, a quoted glob, or a JSONL of ``{image, question}``.

    Pictures that a JSONL names are relative to it; its rows may leave the question to the command line.

    Raises:
        UsageError: no question, or nothing matches.
        DataError: a damaged row.
    """
    path = Path(what).expanduser()
    if path.suffix == ".jsonl":
        return _rows(path, question)
    if question is None:
        raise UsageError('A question is missing: viscot infer PICTURE "What is the total?"')
    question = check_question(question)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        if not found:
            raise UsageError(f"There is no picture in {path} ({', '.join(sorted(PICTURES))}).")
    elif not path.exists() and glob.has_magic(what):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not found:
            raise UsageError(f"No file matches {what}.")
    else:
        found = [path]
    return [Item(image, question) for image in found]


def _rows(path: Path, question: str | None) -> list[Item]:
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, text = str(row["image"]), row.get("question", question)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path}, line {number}: a row is {{"image": PATH, "question": TEXT}} ({error!r}).'
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{path}, line {number}: the question is missing or empty.")
        items.append(Item(path.parent / image, check_question(text)))
    if not items:
        raise DataError(f"{path} has no rows.")
    return items


def ask_items(
    chain: VisualCoT,
    items: Sequence[Item],
    *,
    batch_size: int = 8,
    strategy: Strategy = "cot",
    max_new_tokens: int = 128,
) -> Iterator[Asked]:
    """Answers in the items' order, a batch at a time; an unreadable picture fails alone."""
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        done: dict[int, Asked] = {}
        questions: dict[int, Question] = {}
        for number, item in enumerate(batch):
            try:
                questions[number] = Question(open_image(item.image, exif=True), item.question)
            except ImageError as error:
                done[number] = Asked(item, None, str(error))
        answers = chain.ask_many(list(questions.values()), strategy=strategy, max_new_tokens=max_new_tokens)
        for number, answer in zip(questions, answers, strict=True):
            failed = answer.error is not None
            done[number] = Asked(batch[number], None if failed else answer, answer.error)
        yield from (done[number] for number in range(len(batch)))


def save_picture(asked: Asked, target: Path) -> None:
    """Draw the box and the crop beside the picture, with question and answer below; written atomically.

    Raises:
        UsageError: the ending is none that Pillow writes.
    """
    answer = asked.answer
    if answer is None:
        return
    lines: tuple[str, ...] = (asked.item.question, answer.text)
    if answer.strategy == "cot":
        lines = (*lines, f"box {answer.box_text} ({answer.status})")
    _write(draw_answer(open_image(asked.item.image, exif=True), answer.box, answer.crop, lines), target)


def save_crop(asked: Asked, target: Path) -> None:
    """Save the part of the picture that the model looked at again; written atomically."""
    if asked.answer is not None:
        _write(open_image(asked.item.image, exif=True).crop(asked.answer.crop), target)


def _write(picture: Image.Image, target: Path) -> None:
    if target.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"{target}: pictures are saved as .png or .jpg; change the ending.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        picture.save(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
