"""Boxes: one type, two frames, one text format, one crop.

*Original* boxes are pixels ``[x0, y0, x1, y1]`` of the stored image. *Square* boxes are 0..1 of the image
padded to a square with the image in the middle: what the model reads and writes (paper section 3, the
reference's ``[0.282, 0.316, 0.794, 0.738]``). Sizes are ``(width, height)`` in pixels everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

Size = tuple[int, int]
Window = tuple[int, int, int, int]

MIN_CROP_SIDE = 224
"""Shortest side of the paper's crop window, in pixels of the original image."""


class Frame(StrEnum):
    """Which coordinates a box is written in."""

    ORIGINAL = "original"
    SQUARE = "square"


@dataclass(frozen=True, slots=True)
class Box:
    """Corners ``x0 <= x1, y0 <= y1`` in ``frame`` (pixels for ORIGINAL, 0..1 for SQUARE)."""

    x0: float
    y0: float
    x1: float
    y1: float
    frame: Frame = Frame.SQUARE

    @property
    def coords(self) -> tuple[float, float, float, float]:
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    def to_square(self, size: Size) -> Box:
        """This box in the padded square of an image of ``size``; its offset is in whole pixels."""
        if self.frame is Frame.SQUARE:
            return self
        side, left, top = _square_of(size)
        x0, y0, x1, y1 = self.coords
        return Box((x0 + left) / side, (y0 + top) / side, (x1 + left) / side, (y1 + top) / side, Frame.SQUARE)

    def to_original(self, size: Size) -> Box:
        """This box in pixels of an image of ``size``; it may reach into the padding: see ``clip``."""
        if self.frame is Frame.ORIGINAL:
            return self
        side, left, top = _square_of(size)
        x0, y0, x1, y1 = self.coords
        return Box(x0 * side - left, y0 * side - top, x1 * side - left, y1 * side - top, Frame.ORIGINAL)

    def clip(self, size: Size) -> Box:
        """The part inside an image of ``size`` (ORIGINAL) or inside 0..1 (SQUARE)."""
        right, bottom = (1.0, 1.0) if self.frame is Frame.SQUARE else (float(size[0]), float(size[1]))
        return Box(
            min(max(self.x0, 0.0), right),
            min(max(self.y0, 0.0), bottom),
            min(max(self.x1, 0.0), right),
            min(max(self.y1, 0.0), bottom),
            self.frame,
        )


def _square_of(size: Size) -> tuple[int, int, int]:
    """Side of the padded square and the image's left and top offset in it, in whole pixels."""
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width} x {height} pixels has no frame")
    side = max(width, height)
    # Whole pixels, as the padding is pasted (families/llava/pixels.py).
    return side, (side - width) // 2, (side - height) // 2


WHOLE = Box(0.0, 0.0, 1.0, 1.0, Frame.SQUARE)
"""The whole padded square: what an unparsable box falls back to."""

CENTER = Box(0.25, 0.25, 0.75, 0.75, Frame.SQUARE)
"""The centre-box baseline of the paper's Table 6, of the padded square."""


class BoxStatus(StrEnum):
    """How a box was read from text; counted in every report."""

    OK = "ok"
    REPAIRED = "repaired"
    UNPARSABLE = "unparsable"


@dataclass(frozen=True, slots=True)
class ParsedBox:
    """A box read from a model's words (SQUARE frame); ``box`` is the whole image where unparsable.

    ``count`` is how many different boxes the words name: ``box`` is the first of them, ``others`` are those
    after it that could be read.
    """

    box: Box
    status: BoxStatus
    text: str
    count: int = 1
    others: tuple[Box, ...] = ()


_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)"
_EXACT = re.compile(r"\[(\d\.\d{3}), (\d\.\d{3}), (\d\.\d{3}), (\d\.\d{3})\]")
_FOUR = re.compile(r"\s*,\s*".join([f"({_NUMBER})"] * 4))


def parse_box(text: str) -> ParsedBox:
    """Read one box from a model's words. Never raises.

    ``ok`` is the exact format with corners in order inside 0..1. ``repaired`` is any other text with exactly
    one run of four numbers in 0..1 (words around it, other spacing or decimals, swapped corners, values over
    the edge by at most 0.05). Pixel-like numbers, three or five numbers, or several different boxes are
    ``unparsable``: guessing a scale or a choice would hide the model's fault.
    """
    exact = _EXACT.fullmatch(text.strip())
    if exact:
        x0, y0, x1, y1 = map(float, exact.groups())
        box = Box(x0, y0, x1, y1)
        if box.x0 < box.x1 <= 1 and box.y0 < box.y1 <= 1:
            return ParsedBox(box, BoxStatus.OK, text)
    return _repair(text)


def _repair(text: str) -> ParsedBox:
    failed = ParsedBox(WHOLE, BoxStatus.UNPARSABLE, text)
    # Each pair of brackets by itself; without any, the whole text.
    groups = re.findall(r"\[([^\[\]]*)\]", text) or [text]
    found = set()
    for group in groups:
        numbers = [float(n) for n in re.findall(_NUMBER, group)]
        match = _FOUR.search(group)
        # Four numbers in all, and the four in one run of commas: three or five are not guessed at.
        if len(numbers) != 4 or not match:
            continue
        # A set: the same box said twice is one box.
        found.add(tuple(numbers))
    if len(found) != 1:
        return failed
    x0, y0, x1, y1 = found.pop()
    x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    if min(x0, y0) < -0.05 or max(x1, y1) > 1.05:
        return failed
    box = Box(x0, y0, x1, y1).clip((1, 1))
    if box.area <= 0:
        return failed
    return ParsedBox(box, BoxStatus.REPAIRED, text)


def format_box(box: Box) -> str:
    """``[0.282, 0.316, 0.794, 0.738]``: a SQUARE box in the words the model reads and writes."""
    if box.frame is not Frame.SQUARE:
        raise ValueError("only a box of the square frame has words; convert it with to_square(size) first")
    return "[{:.3f}, {:.3f}, {:.3f}, {:.3f}]".format(*box.coords)


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around ``boxes``, of which there is at least one, all of one frame."""
    return Box(
        min(box.x0 for box in boxes),
        min(box.y0 for box in boxes),
        max(box.x1 for box in boxes),
        max(box.y1 for box in boxes),
        boxes[0].frame,
    )


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes of the same frame; 0 where the union is empty."""
    if a.frame is not b.frame:
        raise ValueError(f"boxes of different frames ({a.frame}, {b.frame}) do not compare")
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    shared = max(0.0, width) * max(0.0, height)
    union = a.area + b.area - shared
    return shared / union if union > 0 else 0.0


class CropPolicy(StrEnum):
    """How a box becomes a crop window (paper Table 5)."""

    PAPER = "paper"
    """Square of the longer side, at least 224 px, centred, shifted inside."""
    TIGHT = "tight"
    """The box itself."""
    EXPANDED = "expanded"
    """The box grown to 1.5 times its width and height, cut at the border."""
    CENTERED = "centered"
    """The square of PAPER without the shift: cut at the border, so the box stays in the middle."""


def crop_window(box: Box, size: Size, policy: CropPolicy = CropPolicy.PAPER) -> Window:
    """Whole-pixel ``(left, top, right, bottom)`` inside an image of ``size``, never empty.

    PAPER reproduces the reference's evaluation crop for every box inside the square: half the longer side
    rounded down, at least 112 px, about the rounded-down centre. Where a box reaches into the padding, the
    reference cuts it at the left and top border only, and so does PAPER: its figures depend on it.
    """
    width, height = size
    if not all(math.isfinite(c) for c in box.coords):
        raise ValueError(f"a box with the coordinates {box.coords} has no crop")
    pixels = box.to_original(size)
    if policy in (CropPolicy.TIGHT, CropPolicy.EXPANDED):
        x0, y0, x1, y1 = pixels.clip(size).coords
        # A quarter on each side makes 1.5 times.
        grow = 0.25 if policy is CropPolicy.EXPANDED else 0.0
        dx, dy = (x1 - x0) * grow, (y1 - y0) * grow
        return _whole(x0 - dx, y0 - dy, x1 + dx, y1 + dy, size)
    x0, y0, x1, y1 = (max(c, 0.0) for c in pixels.coords)
    # Rounded down as the reference does; its figures depend on it.
    half = max((x1 - x0) // 2, (y1 - y0) // 2, MIN_CROP_SIDE // 2)
    cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
    if policy is CropPolicy.CENTERED:
        return _whole(cx - half, cy - half, cx + half, cy + half, size)
    left, right = _shift_inside(cx - half, cx + half, width)
    top, bottom = _shift_inside(cy - half, cy + half, height)
    return _whole(left, top, right, bottom, size)


def _shift_inside(low: float, high: float, limit: int) -> tuple[float, float]:
    """Move the span into 0..limit without changing its length; cut it where it is longer than the limit."""
    if low < 0:
        low, high = 0.0, high - low
    if high > limit:
        low, high = low - (high - limit), float(limit)
    return max(0.0, low), high


def _whole(x0: float, y0: float, x1: float, y1: float, size: Size) -> Window:
    """Whole pixels covering the window inside the image, at least one pixel wide and high."""
    width, height = size
    # At most width - 1, so that one pixel is left for `right`: a box beyond the border is not empty.
    left = min(max(math.floor(x0), 0), width - 1)
    top = min(max(math.floor(y0), 0), height - 1)
    right = min(max(math.ceil(x1), left + 1), width)
    bottom = min(max(math.ceil(y1), top + 1), height)
    return left, top, right, bottom
