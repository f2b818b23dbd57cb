"""Questions about image files: finding the files, asking, records and drawings of the answers."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from viscot_core.ask import Strategy, VisualCoT, check_question
from viscot_core.boxes.geometry import BoxStatus
from viscot_core.errors import DataError, ImageError, UsageError
from viscot_core.files import expanded
from viscot_core.images.drawing import check_ending, draw_answer, save_image
from viscot_core.images.reading import open_image
from viscot_core.policies.base import Answer

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""File endings of the images in a folder; a single file may have any ending."""


@dataclass(frozen=True, slots=True)
class InferItem:
    """One question about one image file."""

    image: Path
    question: str


@dataclass(frozen=True, slots=True)
class InferResult:
    """An item with its answer, or with the reason (one sentence) why there is none."""

    item: InferItem
    strategy: Strategy
    answer: Answer | None
    error: str | None = None

    def record(self, model: str) -> dict[str, Any]:
        """One line of ``--json``: the box in both frames (0..1 of the padded square, pixels), its status."""
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
    """An answer as plain data: the box in both frames (0..1 of the padded square, pixels), status, crop."""
    width, height = answer.size
    look = answer.look
    return {
        "strategy": "direct" if look is None else "cot",
        "answer": answer.text,
        "box": None if look is None else [round(c, 4) for c in look.box.coords],
        "box_pixels": None if look is None else [round(c, 1) for c in look.box_pixels.coords],
        "box_text": None if look is None else look.text,
        # A box that somebody gave had no words to read: nothing could be wrong with it.
        "box_status": None if look is None else (look.status or BoxStatus.OK).value,
        "crop": None if look is None else list(answer.crop),
        "width": width,
        "height": height,
        "seconds": round(answer.seconds, 4),
    }


# -- what is asked -----------------------------------------------------------------------------------


def collect(what: str, question: str | None) -> list[InferItem]:
    """The items of an image path, a folder, a quoted glob, or a JSONL of ``{image, question}``.

    Image paths in a JSONL are relative to it; a row without a question gets ``question``.

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
    return [InferItem(image, question) for image in found]


def _rows(path: Path, question: str | None) -> list[InferItem]:
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
        items.append(InferItem(path.parent / image, check_question(text)))
    if not items:
        raise DataError(f'{path} has no rows; a row is {{"image": PATH, "question": TEXT}}.')
    return items


# -- what is answered --------------------------------------------------------------------------------


def ask_items(
    cot: VisualCoT,
    items: Sequence[InferItem],
    *,
    batch_size: int = 8,
    strategy: Strategy = "cot",
    max_new_tokens: int = 128,
) -> Iterator[InferResult]:
    """Results in the items' order, a batch at a time; a bad image or question fails its own item only."""
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        results: dict[int, InferResult] = {}
        images: dict[int, Image.Image] = {}
        for number, item in enumerate(batch):
            try:
                images[number] = open_image(item.image, as_seen=True)
            except ImageError as error:
                results[number] = InferResult(item, strategy, None, str(error))
        pairs = [(image, batch[number].question) for number, image in images.items()]
        answers = cot.ask_many(pairs, strategy=strategy, max_new_tokens=max_new_tokens)
        for number, answer in zip(images, answers, strict=True):
            results[number] = _result(batch[number], strategy, answer)
        yield from (results[number] for number in range(len(batch)))


def _result(item: InferItem, strategy: Strategy, answer: Answer) -> InferResult:
    if answer.error is None:
        return InferResult(item, strategy, answer)
    reason = f"{item.image}: the model could not answer ({answer.error})."
    return InferResult(item, strategy, None, reason)


# -- what is drawn -----------------------------------------------------------------------------------


def places_to_save(items: Sequence[InferItem], save: Path) -> list[Path]:
    """The file for each item's drawing: ``save`` for a single item, else a PNG each in the folder ``save``.

    Raises:
        UsageError: ``save`` is a file but many answers come, its folder is not writable, a drawing would
            replace an image that is asked about, or Pillow cannot write the file type.
    """
    places = _places(items, save)
    asked = {item.image.resolve() for item in items}
    if own := next((place for place in places if place.resolve() in asked), None):
        raise UsageError(f"{own} is an image that is asked about; choose another --save.")
    for folder in {place.parent for place in places}:
        # The nearest folder that exists: what lacks below it will be made.
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(f"Nothing can be written into {there}; choose another --save.")
    return places


def _places(items: Sequence[InferItem], save: Path) -> list[Path]:
    if len(items) == 1 and not save.is_dir():
        check_ending(save)
        return [save]
    if not save.is_dir() and (save.exists() or save.suffix.lower() in IMAGES):
        raise UsageError(f"{len(items)} answers do not fit into one file, {save}; give a folder.")
    places: dict[Path, None] = {}
    for item in items:
        names = (f"{item.image.stem}{end}.png" for end in ("", *(f"-{n}" for n in range(2, len(items) + 1))))
        places[next(save / name for name in names if save / name not in places)] = None
    return list(places)


def save_drawing(result: InferResult, target: Path) -> None:
    """Draw the box and the crop beside the image, with question and answer below; written atomically.

    Nothing is drawn without an answer; a box only where one could be read.
    """
    answer = result.answer
    if answer is None:
        return
    image = open_image(result.item.image, as_seen=True)
    lines = [result.item.question, answer.text]
    look = answer.look
    if look is None:
        drawn = draw_answer(image, None, None, lines)
    else:
        lines.append(f"box {look.text} ({look.status})")
        box = None if look.status == BoxStatus.UNPARSABLE else look.box
        drawn = draw_answer(image, box, answer.crop, lines)
    save_image(drawn, target)


def save_crop(result: InferResult, target: Path) -> None:
    """Save the part of the image that the model looked at again; written atomically."""
    if result.answer is not None:
        save_image(open_image(result.item.image, as_seen=True).crop(result.answer.crop), target)
