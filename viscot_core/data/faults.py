"""Rows that can be read and would teach something wrong: boxes of another format, crops of nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from viscot_core.boxes.geometry import Box, BoxStatus, Size, parse_box
from viscot_core.conversation import BOX_REQUEST, REFCOCO_AFTER, Message
from viscot_core.data.annotations import Conversation

BOX_FORMAT, SWAPPED, INVERTED = "box format", "swapped corners", "inverted crop"
NO_OVERLAP, EMPTY = "crop outside", "empty answer"
_NUMBER = r"\s*(-?(?:\d+\.?\d*|\.\d+))\s*"
_BOX = re.compile(r"[\[(]" + ",".join([_NUMBER] * 4) + r"[\])]")
_ANY_FORMAT = re.compile(r"\"?(?:bbox_2d|box_2d|bbox)\"?\s*:|<box>|<\|box_start\|>|<loc\d+>")
"""Marks of boxes in other models' words."""
_CALL = re.compile(r"<tool_call>|<grounding>|<\|tool_call|<function=")
"""Marks of a call of a zoom tool: its numbers are the dialect's, and are learned as they were said."""
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class RowFault:
    """What is wrong with a row: a kind to count by, and a sentence about this row."""

    kind: str
    detail: str


def faults(row: Conversation, size_of: Callable[[str], Size] | None = None) -> list[RowFault]:
    """The faults of a row; crops are compared with their images where ``size_of`` tells an image's size."""
    found: list[RowFault] = []
    asked = ""
    for turn in row.turns:
        if turn.role == "user":
            asked = turn.text
        elif turn.role != "assistant":
            continue
        elif not turn.text.strip():
            found.append(RowFault(EMPTY, "an assistant's turn is empty; write an answer or remove the row"))
        elif says_box(turn, asked):
            found += _box_faults(turn.text)
    for path, box in row.views():
        if box is not None:
            found += _crop_faults(box, size_of(path) if size_of else None)
    return found


def has_box(row: Conversation) -> bool:
    """Whether one of the assistant's turns is meant to be a box."""
    asked = ("", *(turn.text for turn in row.turns))
    turns = zip(row.turns, asked, strict=False)
    return any(turn.role == "assistant" and says_box(turn, before) for turn, before in turns)


def says_box(turn: Message, asked: str) -> bool:
    """Whether an assistant's turn is meant to be a box: it was asked for one, or writes nothing else."""
    if turn.role != "assistant" or _CALL.search(turn.text):
        return False
    return asks_for_box(asked) or bool(_BOX.fullmatch(turn.text.strip()) or _ANY_FORMAT.search(turn.text))


def asks_for_box(asked: str) -> bool:
    """Whether a user's message asks for a box in the protocol's words."""
    return BOX_REQUEST in asked or asked.rstrip().endswith(REFCOCO_AFTER.strip())


def _box_faults(text: str) -> list[RowFault]:
    shown = text.strip() if len(text) <= _SHOWN else f"{text.strip()[:_SHOWN]}..."
    if parse_box(text).status is BoxStatus.UNPARSABLE:
        expected = "expected [x0, y0, x1, y1] in 0..1 of the padded square"
        return [RowFault(BOX_FORMAT, f"the box {shown!r} cannot be read; {expected}")]
    if (match := _BOX.search(text)) is not None:
        x0, y0, x1, y1 = map(float, match.groups())
        if x0 > x1 or y0 > y1:
            return [RowFault(SWAPPED, f"the box {shown!r} has swapped corners; the upper left is first")]
    return []


def _crop_faults(box: Box, size: Size | None) -> list[RowFault]:
    corners = [round(corner, 2) for corner in box.coords]
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        return [RowFault(INVERTED, f"the crop {corners} is inverted or empty; write x0 < x1 and y0 < y1")]
    if size and no_overlap(box, size):
        return [RowFault(NO_OVERLAP, f"the crop {corners} lies outside its image of {size[0]} x {size[1]}")]
    return []


def no_overlap(box: Box, size: Size) -> bool:
    """Whether a box (pixels) and an image of ``size`` share nothing."""
    return box.x0 >= size[0] or box.y0 >= size[1] or box.x1 <= 0 or box.y1 <= 0
