"""Boxes of rows in viscot's own convention (0..1 of the padded square), from the one declared for them.

Nothing is guessed: a row's boxes are read by the convention that the user names, or by the one that the
layout itself declares (ms-swift's ``objects``); without either they must be viscot's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from viscot_core.boxes.formats import Codec, from_shares, in_order
from viscot_core.boxes.geometry import Box, BoxStatus, Size, format_box, parse_box
from viscot_core.conversation import Message
from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.data.faults import says_box
from viscot_core.data.formats.layouts import Objects, RowError, original
from viscot_core.errors import DataError

BBOX, REF = "<bbox>", "<ref-object>"
"""ms-swift's marks, replaced in reading order."""
SizeOf = Callable[[str], Size]
"""Width and height in pixels of an image that a row names; raises DataError where it cannot be read."""


def own_boxes(row: Conversation, declared: Codec | None, size_of: SizeOf) -> Conversation:
    """The row with every box of the assistant in viscot's convention; ``declared``: None where they are.

    Raises:
        RowError: a box that the convention does not read.
    """
    turns, asked = list(row.turns), ""
    for number, turn in enumerate(turns):
        if turn.role != "assistant":
            asked = turn.text
        elif says_box(turn, asked):
            field = f"messages.{number}"
            if declared is None or declared.name == "viscot":
                _require_own(turn, field)
            else:
                turns[number] = replace(turn, text=_rewritten(turn.text, row, declared, size_of, field))
    return row.model_copy(update={"turns": tuple(turns)})


def _require_own(turn: Message, field: str) -> None:
    parsed = parse_box(turn.text)
    if parsed.status is BoxStatus.UNPARSABLE:
        says = "is not in 0..1 of the padded square; --boxes names another convention"
        raise RowError("boxes", field, f"the box {_short(turn.text)} {says}")


def _rewritten(text: str, row: Conversation, declared: Codec, size_of: SizeOf, field: str) -> str:
    """The text with its boxes in 0..1: the whole of it, or each box among its words."""
    if not row.image:
        raise RowError("boxes", field, f"the box {_short(text)} is of no image: the row has none")
    size = _size(split_crop(row.image[0])[0], size_of)
    parsed = declared.parse(text, size)
    if parsed.status is BoxStatus.OK:
        return format_box(parsed.box)
    # With what belongs to the box around its numbers, where that is there.
    forms = [(declared.whole or "%s") % declared.find, declared.find]
    form = next((form for form in forms if re.search(form, text)), None)
    if parsed.status is BoxStatus.UNPARSABLE or form is None:
        raise RowError("boxes", field, f"the box {_short(text)} does not fit {declared.name}, as declared")

    def one(match: re.Match[str]) -> str:
        found = declared.parse(match[0], size)
        if found.status is BoxStatus.UNPARSABLE:
            raise RowError("boxes", field, f"the box {_short(match[0])} does not fit {declared.name}")
        return format_box(found.box)

    return re.sub(form, one, text)


def with_objects(row: Conversation, objects: Objects, size_of: SizeOf) -> Conversation:
    """The row with ms-swift's marks replaced by words and by boxes in viscot's convention.

    Raises:
        RowError: more marks than objects, or a box outside of its image.
    """
    left_boxes, left_refs = list(enumerate(objects.boxes)), list(objects.refs)

    def box_text(_: re.Match[str]) -> str:
        if not left_boxes:
            raise RowError("boxes", "objects.bbox", f"more {BBOX} marks than boxes ({len(objects.boxes)})")
        number, box = left_boxes.pop(0)
        index = objects.images[number] if number < len(objects.images) else 0
        if index >= len(row.image):
            raise RowError("boxes", "objects.image_id", f"there is no image {index}; it counts from 0")
        size = _size(split_crop(row.image[index])[0], size_of)
        return format_box(_swift_box(box, objects.unit, size, f"objects.bbox.{number}"))

    def ref_text(_: re.Match[str]) -> str:
        if not left_refs:
            raise RowError("boxes", "objects.ref", f"more {REF} marks than words ({len(objects.refs)})")
        return left_refs.pop(0)

    turns = [
        replace(turn, text=re.sub(REF, ref_text, re.sub(BBOX, box_text, turn.text))) for turn in row.turns
    ]
    if left_boxes:
        raise RowError("boxes", "objects.bbox", f"{len(left_boxes)} boxes have no {BBOX} mark")
    return row.model_copy(update={"turns": tuple(turns)})


def _swift_box(box: tuple[float, ...], unit: str, size: Size, field: str) -> Box:
    width, height = (1.0, 1.0) if unit == "norm1" else size
    inside = in_order((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    if inside is None:
        what = "0..1" if unit == "norm1" else f"the image of {size[0]} x {size[1]} pixels"
        raise RowError("boxes", field, f"the box {list(box)} is not inside {what} (bbox_type {unit})")
    return from_shares(inside, size) if unit == "norm1" else original(box).clip(size).to_square(size)


def _size(name: str, size_of: SizeOf) -> Size:
    try:
        return size_of(name)
    except DataError as error:
        raise RowError("image", "images", str(error)) from error


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
