"""Drawings of answers: where each goes, and writing them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from viscot_core.errors import UsageError
from viscot_core.files import expanded
from viscot_core.images.drawing import check_ending, save_image
from viscot_core.images.formats import image_endings
from viscot_core.infer.asking import InferResult
from viscot_core.infer.items import InferItem, names_in


def places_to_save(items: Sequence[InferItem], save: Path) -> list[Path]:
    """The file for each item's drawing: ``save`` for a single item, else a PNG each in the folder ``save``.

    Raises:
        UsageError: ``save`` is a file but many answers come, its folder is not writable, a drawing would
            replace an image that is asked about, or Pillow cannot write the file type.
    """
    places = _places(items, expanded(save))
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
    if not save.is_dir() and (save.exists() or save.suffix.lower() in image_endings()):
        raise UsageError(f"{len(items)} answers do not fit into one file, {save}; give a folder.")
    return [save / f"{name}.png" for name in names_in(items)]


def save_drawing(result: InferResult, target: Path) -> None:
    """Draw the box and the crop beside the image, with question and answer below; written atomically.

    Nothing is drawn without an answer; a box only where one could be read.
    """
    if result.answer is not None:
        save_image(result.answer.draw(), target)


def save_crop(result: InferResult, target: Path) -> None:
    """Save the part of the image that the model looked at again; written atomically."""
    if result.answer is not None:
        save_image(result.answer.crop_image, target)
