"""Many images, one or many questions: what ``viscot infer`` is asked for, the answers as plain records."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import BoxStatus
from viscot_core.chain import Answer, Question, Strategy, VisualCoT, check_question
from viscot_core.errors import DataError, ImageError, UsageError
from viscot_core.files import expanded
from viscot_core.images.drawing import check_ending, draw_answer, save_image
from viscot_core.images.reading import open_image

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings that count as images in a folder; a single file may have any."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one image file."""

    image: Path
    question: str


@dataclass(frozen=True, slots=True)
class Asked:
    """An item with its answer, or with the reason (one sentence) why there is none."""

    item: Item
    strategy: Strategy
    answer: Answer | None
    error: str | None = None

    def record(self, model: str) -> dict[str, Any]:
        """One line of ``--json``: boxes in both frames (padded square 0..1, pixels), status, timing."""
        about = {
            "image": str(self.item.image),
            "question": self.item.question,
            "model": model,
            "strategy": self.strategy,
        }
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


# -- what is asked -----------------------------------------------------------------------------------


def collect(what: str, question: str | None) -> list[Item]:
    """The items behind an image's path, a folder, a quoted glob, or a JSONL of ``{image, question}``.

    Images that a JSONL names are relative to it; its rows may leave the question to the command line.

    Raises:
        UsageError: no question, or nothing matches.
        DataError: a damaged row.
    """
    if not what.strip():
        raise UsageError('The image is missing: viscot infer IMAGE "What is the total?"')
    path = expanded(what)
    if path.suffix == ".jsonl":
        return _rows(path, question)
    if question is None:
        raise UsageError('A question is missing: viscot infer IMAGE "What is the total?"')
    question = check_question(question)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
        if not found:
            raise UsageError(
                f"There is no image in {path} ({', '.join(sorted(IMAGES))}); give another folder."
            )
    elif not path.exists() and glob.has_magic(what):
        names = sorted(glob.glob(str(path), recursive=True))
        found = [each for each in map(Path, names) if not each.is_dir()]
        if not found:
            raise UsageError(f"No file matches {what}; check the pattern.")
    else:
        found = [path]
    return [Item(image, question) for image in found]


def _rows(path: Path, question: str | None) -> list[Item]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON text may hold other line ends
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); convert it first.") from error
    items = []
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
            raise DataError(f"{path}, line {number}: the question is missing or empty; write one.")
        items.append(Item(path.parent / image, check_question(text)))
    if not items:
        raise DataError(f'{path} has no rows; a row is {{"image": PATH, "question": TEXT}}.')
    return items


# -- what is answered --------------------------------------------------------------------------------


def ask_items(
    chain: VisualCoT,
    items: Sequence[Item],
    *,
    batch_size: int = 8,
    strategy: Strategy = "cot",
    max_new_tokens: int = 128,
) -> Iterator[Asked]:
    """Answers in the items' order, a batch at a time; an image or prompt that does not work fails alone."""
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        done: dict[int, Asked] = {}
        questions: dict[int, Question] = {}
        for number, item in enumerate(batch):
            try:
                questions[number] = Question(open_image(item.image, exif=True), item.question)
            except ImageError as error:
                done[number] = Asked(item, strategy, None, str(error))
        answers: list[Answer] = []
        if questions:
            answers = chain.ask_many(
                list(questions.values()), strategy=strategy, max_new_tokens=max_new_tokens
            )
        for number, answer in zip(questions, answers, strict=True):
            if answer.error is None:
                done[number] = Asked(batch[number], strategy, answer)
            else:
                reason = f"{batch[number].image}: the model could not answer ({answer.error})."
                done[number] = Asked(batch[number], strategy, None, reason)
        yield from (done[number] for number in range(len(batch)))


# -- what is drawn -----------------------------------------------------------------------------------


def places_to_save(items: Sequence[Item], save: Path) -> list[Path]:
    """Where each item's drawing goes: ``save`` itself for one item, a PNG of its own in that folder for many.

    Raises:
        UsageError: a file where a folder is needed, a folder that cannot be written to, an image that is
            asked about itself, or an ending that Pillow does not write.
    """
    places = _places(items, save)
    asked = {item.image.resolve() for item in items}
    if own := next((place for place in places if place.resolve() in asked), None):
        raise UsageError(f"{own} is an image that is asked about; choose another --save.")
    for folder in {place.parent for place in places}:
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(f"Nothing can be written into {there}; choose another --save.")
    return places


def _places(items: Sequence[Item], save: Path) -> list[Path]:
    if len(items) == 1 and not save.is_dir():
        check_ending(save)
        return [save]
    if not save.is_dir() and (save.exists() or save.suffix.lower() in IMAGES):
        raise UsageError(f"{len(items)} answers do not fit the one file {save}; give a folder.")
    places: dict[Path, None] = {}
    for item in items:
        names = (f"{item.image.stem}{end}.png" for end in ("", *(f"-{n}" for n in range(2, len(items) + 1))))
        places[next(save / name for name in names if save / name not in places)] = None
    return list(places)


def save_drawing(asked: Asked, target: Path) -> None:
    """Draw the box and the crop beside the image, with question and answer below; written atomically.

    Nothing is drawn where there is no answer, no box where the model named none that can be read.
    """
    answer = asked.answer
    if answer is None:
        return
    image = open_image(asked.item.image, exif=True)
    lines = [asked.item.question, answer.text]
    if answer.strategy == "direct":
        drawn = draw_answer(image, None, None, lines)
    else:
        lines.append(f"box {answer.box_text} ({answer.status})")
        box = None if answer.status == BoxStatus.UNPARSABLE else answer.box
        drawn = draw_answer(image, box, answer.crop, lines)
    save_image(drawn, target)


def save_crop(asked: Asked, target: Path) -> None:
    """Save the part of the image that the model looked at again; written atomically."""
    if asked.answer is not None:
        save_image(open_image(asked.item.image, exif=True).crop(asked.answer.crop), target)
