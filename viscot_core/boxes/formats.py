"""How each model family writes a box: one registry, each entry with its exact text, order, scale and frame.

A codec turns a box of the padded square into a family's words and back, and says which form to answer in.
Scale and order are declared, never guessed from a reply: the same object is ``[500, 250, 700, 750]`` in
seven families and ``[250, 500, 750, 700]`` in Gemini. The families themselves are in ``families.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from viscot_core.boxes.geometry import WHOLE, Box, BoxStatus, Frame, ParsedBox, Size, format_box, parse_box
from viscot_core.boxes.numbers import Numbers, boxes_in

Resize = Callable[[Size], Size]

TOLERANCE = 0.05
"""A box may leave the image by this share of its side and is cut there; beyond, it is unparsable."""
NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
FOUR = ",".join([NUMBER] * 4)


@dataclass(frozen=True)
class Codec:
    """One family's convention; this class covers all that write four numbers of the image's own axes."""

    name: str
    text: str
    """The exact words: ``{0}`` .. ``{3}`` are numbers in the family's order, ``{label}`` what is boxed."""
    find: str
    """Expression with four groups that finds the numbers in a reply."""
    whole: str = ""
    """Expression of a whole clean reply; ``%s`` stands for ``find``. Empty: ``find`` is the whole reply."""
    form: str = ""
    """The sentence after the request that asks for this form."""
    own_request: str = ""
    """How the family's own documents ask for the box of ``{what}``; empty where that is not certain."""
    scale: float | None = 1000.0
    """What one side of the image counts; None: pixels of the image after ``resize``."""
    order: Literal["xyxy", "yxyx", "xywh"] = "xyxy"
    number: str = ".0f"
    """How a number is written."""
    bins: bool = False
    """Numbers are indices of ``scale`` bins, rounded down."""
    middle: bool = False
    """A bin is read as its middle."""
    resize: Resize | None = None
    """The size an image must be sent in, so that the pixels sent are the pixels the model sees and names."""
    points: bool = False
    """The family names points, not boxes: there is a place to crop and no overlap to measure."""
    standing: str = "seen"
    """How sure the convention is: ``seen`` in the family's code, ``documentation``, ``unverified``."""

    def encode(self, box: Box, size: Size, label: str = "region") -> str:
        """``box`` of an image of ``size`` in this family's words."""
        x0, y0, x1, y1 = shares_of(box, size)
        sx, sy = self._scales(size)
        ends = (x0 * sx, y0 * sy, x1 * sx, y1 * sy)
        if self.bins:
            ends = tuple(self._bin(n, s) for n, s in zip(ends, (sx, sy, sx, sy), strict=True))  # type: ignore[assignment]
        return self.text.format(*(format(n, self.number) for n in self._to_family(ends)), label=label)

    def parse(self, text: str, size: Size) -> ParsedBox:
        """Read the box of a reply about an image of ``size`` (SQUARE frame). Never raises.

        ``ok`` is the family's own clean text. ``repaired``: any other four numbers in the family's scale and
        order (words around them, other brackets or keys), swapped corners, an edge past the image by at most
        5 %, or the first of several boxes. No four numbers, or others than the scale has, are ``unparsable``.
        """
        failed = ParsedBox(WHOLE, BoxStatus.UNPARSABLE, text)
        own_form = [_four(match) for match in re.finditer(self.find, text)]
        found = list(dict.fromkeys(own_form)) or boxes_in(text, self.order)
        if not found:
            return failed
        # The first: to take the one that reads better would be to guess.
        shares, *others = (self._shares(numbers, size) for numbers in found)
        inside = None if shares is None else in_order(shares, allow_point=self.points)
        if inside is None:
            return failed
        # Clean: one box, nothing was swapped or cut, and no words stand around it.
        own = len(found) == 1 and re.fullmatch((self.whole or "%s") % self.find, text.strip())
        status = BoxStatus.OK if own and inside == shares else BoxStatus.REPAIRED
        return ParsedBox(from_shares(inside, size), status, text, len(found), self._readable(others, size))

    def _shares(self, numbers: Numbers, size: Size) -> Numbers | None:
        """A reply's numbers as shares of the image's sides; None where they are in another scale."""
        sx, sy = self._scales(size)
        # Four numbers in 0..1 come from a model that answers in shares: in a larger scale they would be a
        # tiny box in the corner, and no error.
        if min(sx, sy) > 1 and all(0 <= number <= 1 for number in numbers):
            return None
        x0, y0, x1, y1 = self._from_family(*numbers)
        half = 0.5 if self.middle else 0.0
        return ((x0 + half) / sx, (y0 + half) / sy, (x1 + half) / sx, (y1 + half) / sy)

    def _readable(self, others: Iterable[Numbers | None], size: Size) -> tuple[Box, ...]:
        """The boxes after the first that lie in the image."""
        inside = (in_order(shares, allow_point=self.points) for shares in others if shares is not None)
        return tuple(from_shares(shares, size) for shares in inside if shares is not None)

    def _scales(self, size: Size) -> tuple[float, float]:
        if self.scale is not None:
            return self.scale, self.scale
        width, height = self.resize(size) if self.resize else size
        return float(width), float(height)

    @staticmethod
    def _bin(value: float, scale: float) -> float:
        # An epsilon, or 0.7 * 1000 (699.999...) falls into the bin below.
        return min(max(math.floor(value + 1e-6), 0), scale - 1)

    def _to_family(self, ends: Numbers) -> Numbers:
        x0, y0, x1, y1 = ends
        return {"xyxy": ends, "yxyx": (y0, x0, y1, x1), "xywh": (x0, y0, x1 - x0, y1 - y0)}[self.order]

    def _from_family(self, a: float, b: float, c: float, d: float) -> Numbers:
        return {"xyxy": (a, b, c, d), "yxyx": (b, a, d, c), "xywh": (a, b, a + c, b + d)}[self.order]


def _four(match: re.Match[str]) -> Numbers:
    a, b, c, d = (float(group) for group in match.groups())
    return (a, b, c, d)


def in_order(shares: Numbers, *, allow_point: bool = False) -> Numbers | None:
    """Corners in order and inside 0..1; None where that takes more than ``TOLERANCE`` or leaves no area."""
    x0, y0, x1, y1 = shares
    ordered = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    if min(ordered) < -TOLERANCE or max(ordered) > 1 + TOLERANCE:
        return None
    left, top, right, bottom = (min(max(n, 0.0), 1.0) for n in ordered)
    if not allow_point and (right <= left or bottom <= top):
        return None
    return (left, top, right, bottom)


def from_shares(shares: Numbers, size: Size) -> Box:
    """Shares of an image's own width and height -> a box of its padded square."""
    width, height = size
    x0, y0, x1, y1 = shares
    return Box(x0 * width, y0 * height, x1 * width, y1 * height, Frame.ORIGINAL).to_square(size)


class SquareCodec(Codec):
    """Visual CoT's own frame, 0..1 of the padded square, in the family's number of decimals."""

    def encode(self, box: Box, size: Size, label: str = "region") -> str:
        """``box`` in this family's words; ``label`` is not part of them."""
        square = box.to_square(size)
        if self.number == ".3f":
            return format_box(square)
        return self.text.format(*(format(n, self.number) for n in square.coords), label=label)

    def parse(self, text: str, size: Size) -> ParsedBox:
        """As ``boxes.parse_box``; the family's own decimals count as ``ok``.

        Viscot's own format is read by that rule alone: the paper's figures depend on it. Another family's
        words are read as those of every family are.
        """
        parsed = parse_box(text)
        if self.number == ".3f":
            return parsed
        if parsed.status is BoxStatus.UNPARSABLE and (found := boxes_in(text)):
            inside = in_order(found[0])
            box = None if inside is None else Box(*inside)
            return ParsedBox(box, BoxStatus.REPAIRED, text, len(found)) if box else parsed
        own = re.fullmatch(self.find, text.strip())
        if (
            parsed.status is BoxStatus.REPAIRED
            and own
            and tuple(map(float, own.groups())) == parsed.box.coords
        ):
            return ParsedBox(parsed.box, BoxStatus.OK, text)
        return parsed


class GridCodec(Codec):
    """Kosmos-2: two cells of a 32 x 32 grid, ``row * 32 + column``; a cell is read as its middle."""

    side = 32

    def encode(self, box: Box, size: Size, label: str = "region") -> str:
        """The cells holding the upper left corner and the last point before the lower right one."""
        x0, y0, x1, y1 = (n * self.side for n in shares_of(box, size))
        left, top = self._cell(math.floor(x0)), self._cell(math.floor(y0))
        # ceil - 1: a box that ends on a cell's border does not reach the next; one cell at least.
        right, bottom = max(self._cell(math.ceil(x1) - 1), left), max(self._cell(math.ceil(y1) - 1), top)
        return self.text.format(
            f"{top * self.side + left:04d}", f"{bottom * self.side + right:04d}", label=label
        )

    def parse(self, text: str, size: Size) -> ParsedBox:
        """The box between the middles of the two cells; one single cell is the cell itself."""
        failed = ParsedBox(WHOLE, BoxStatus.UNPARSABLE, text)
        found = list(dict.fromkeys((int(m[1]), int(m[2])) for m in re.finditer(self.find, text)))
        if not found or max(cells := found[0]) >= self.side**2:
            return failed
        # A cell is row * side + column: divmod gives (row, column), which is (y, x).
        (y0, x0), (y1, x1) = (divmod(cell, self.side) for cell in cells)
        half_x, half_y = (0.0 if x0 == x1 else 0.5), (0.0 if y0 == y1 else 0.5)
        shares = tuple(
            n / self.side
            for n in (
                min(x0, x1) + half_x,
                min(y0, y1) + half_y,
                max(x0, x1) + 1 - half_x,
                max(y0, y1) + 1 - half_y,
            )
        )
        own = len(found) == 1 and re.fullmatch((self.whole or "%s") % self.find, text.strip())
        status = BoxStatus.OK if own and x0 <= x1 and y0 <= y1 else BoxStatus.REPAIRED
        return ParsedBox(from_shares(shares, size), status, text, len(found))  # type: ignore[arg-type]

    def _cell(self, index: int) -> int:
        return min(max(index, 0), self.side - 1)


_POINT = re.compile(
    rf"""\bx\d?["']?\s*[=:]\s*["']?{NUMBER}["']?[\s,;]*["']?\by\d?["']?\s*[=:]\s*["']?{NUMBER}"""
    rf"|[\[(]{NUMBER},{NUMBER}[\])]"
)
"""A point in other words: other quotes, ``x1=.. y1=..`` of several points, JSON; or a pair in brackets."""


class PointCodec(Codec):
    """Molmo (1): one point in percent of the image; a box is written as its middle."""

    def encode(self, box: Box, size: Size, label: str = "region") -> str:
        """The middle of ``box`` in percent."""
        x0, y0, x1, y1 = shares_of(box, size)
        return self.text.format(f"{(x0 + x1) * 50:.1f}", f"{(y0 + y1) * 50:.1f}", label=label)

    def parse(self, text: str, size: Size) -> ParsedBox:
        """A box without extent at the point."""
        failed = ParsedBox(WHOLE, BoxStatus.UNPARSABLE, text)
        places = [*re.finditer(self.find, text)] or [*_POINT.finditer(text)]
        pairs = (tuple(float(g) / 100 for g in m.groups() if g) for m in places)
        found = list(dict.fromkeys((x, y) for x, y in pairs))
        if not found:
            return failed
        x, y = found[0]
        if 0 <= x <= 0.01 and 0 <= y <= 0.01:  # shares of a side, not percent
            return failed
        inside = in_order((x, y, x, y), allow_point=True)
        if inside is None:
            return failed
        own = len(found) == 1 and re.fullmatch((self.whole or "%s") % self.find, text.strip())
        status = BoxStatus.OK if own else BoxStatus.REPAIRED
        others = self._readable(((a, b, a, b) for a, b in found[1:]), size)
        return ParsedBox(from_shares(inside, size), status, text, len(found), others)


def shares_of(box: Box, size: Size) -> Numbers:
    """A box as shares of the image's own width and height; no family has words for the padding."""
    width, height = size
    x0, y0, x1, y1 = box.to_original(size).clip(size).coords
    return (x0 / width, y0 / height, x1 / width, y1 / height)
