"""Large synthetic scenes in which a number is found by looking two or three times.

A scene holds cards, a card holds marks with numbers; in a *deep* scene a card holds boards, and they hold the
marks. At each step the next thing is as large in its view as an object is in a whole scene of ``scenes``, and
the numbers are too small to read before the last. A card of a scene that is not deep has a bar without a
number, in the colour of one of its marks: it names where to look next.

``draw_window`` draws any part of a scene at any size, so that a small model can be trained without files of
up to 16 million pixels; at full size it gives the pixels of the file.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

from viscot_core.boxes.geometry import Size, Window
from viscot_core.data.scenes import (
    COLORS,
    NOUNS,
    Thing,
    draw_thing,
    jitter_color,
    place_text,
)

MARGIN = 0.02
"""Free edge inside a card or board, as a share of its longer side."""
BAR = (0.22, 0.03, 0.78, 0.12)
"""Where a card's bar lies, as shares of the card."""
TEXT_SHARES = (0.040, 0.050)
"""Font size as a share of a card's and of a board's side: 4.5 and 5.6 px in its crop at 112 px."""
LARGEST_MARK = 222
"""Pixels of a mark's side: the last crop, 224 px, shows all of it."""
LINE_SHARE = 0.012
"""Width of an outline, as a share of the object's side."""


@dataclass(frozen=True, slots=True)
class SearchThing:
    """An object of a search scene and what lies on it. ``text`` is empty where it has no number."""

    noun: str
    color: str
    box: Window
    text: str = ""
    text_box: Window = (0, 0, 0, 0)
    font_size: int = 0
    bar: str = ""
    """The colour of its bar, that of one of its parts."""
    parts: tuple[SearchThing, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.color} {self.noun}"


@dataclass(frozen=True, slots=True)
class SearchScene:
    """An image's content; ``deep`` scenes take three looks. ``seed`` also draws the background."""

    seed: int
    size: Size
    deep: bool
    cards: tuple[SearchThing, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> SearchScene:
        cards = tuple(_part(card) for card in row["cards"])
        return cls(row["seed"], (row["size"][0], row["size"][1]), row["deep"], cards)


def _part(row: dict[str, Any]) -> SearchThing:
    boxes = {name: tuple(row[name]) for name in ("box", "text_box")}
    return SearchThing(**{**row, **boxes, "parts": tuple(_part(part) for part in row["parts"])})


DEEP_SHARE = 0.4


def make_search_scene(seed: int) -> SearchScene:
    """A scene of 2304-4096 px; two in five are deep."""
    rng = random.Random(seed)
    deep = rng.random() < DEEP_SHARE
    # A deep scene needs the room: three times a fourth or a third of it, down to marks that fill 224 px.
    side = rng.randrange(3712, 4097, 8) if deep else rng.randrange(2304, 3585, 8)
    short = rng.randrange(side * (14 if deep else 11) // 16, side + 1, 8)
    size = rng.choice([(side, short), (short, side)])
    colors = rng.sample(list(COLORS), 3 if deep else rng.randint(3, 4))
    # What lies on the cards has none of their colours: in the whole image a colour names one thing.
    inner = [color for color in COLORS if color not in colors]
    cards = []
    for card in _placed(rng, (0, 0, *size), side, (0.38, 0.42) if deep else (0.27, 0.33), colors, []):
        if deep:
            boards = _filled(rng, card, (0.32, 0.36), inner, rng.randint(2, 3))
            cards.append(replace(card, parts=tuple(_with_marks(rng, board, inner, 3) for board in boards)))
        else:
            full = _with_marks(rng, replace(card, bar="?"), inner, rng.randint(3, 4))
            cards.append(replace(full, bar=rng.choice(full.parts).color))
    return SearchScene(seed, size, deep, tuple(cards))


def _with_marks(rng: random.Random, part: SearchThing, inner: Sequence[str], count: int) -> SearchThing:
    """``part`` with up to ``count`` marks, each with another number."""
    side = _side(part.box)
    font_size = round(side * TEXT_SHARES[0 if part.bar else 1] * rng.uniform(0.97, 1.08))
    texts = rng.sample(range(10, 100), count)
    marks = []
    for text, mark in zip(texts, _filled(rng, part, (0.19, 0.24), inner, count), strict=False):
        text_box = place_text(rng, str(text), font_size, mark.box)
        noun = rng.choice(NOUNS)
        marks.append(replace(mark, noun=noun, text=str(text), text_box=text_box, font_size=font_size))
    return replace(part, parts=tuple(marks))


def _filled(
    rng: random.Random, part: SearchThing, shares: tuple[float, float], colors: Sequence[str], count: int
) -> list[SearchThing]:
    """Things of up to ``count`` of the ``colors`` on ``part``, clear of its bar."""
    chosen = rng.sample([color for color in colors if color != part.color], count)
    return _placed(rng, part.box, _side(part.box), shares, chosen, [bar_box(part)] if part.bar else [])


def _placed(
    rng: random.Random,
    inside: Window,
    side: int,
    shares: tuple[float, float],
    colors: Sequence[str],
    taken: Sequence[Window],
) -> list[SearchThing]:
    """A thing of each colour, as long as there is room; at least two."""
    while True:
        found: list[SearchThing] = []
        for color in colors:
            box = _free_place(rng, inside, side, shares, [*taken, *(one.box for one in found)])
            if box is not None:
                found.append(SearchThing("card", color, box))
        # Two always fit; an unlucky first one is placed again.
        if len(found) > 1:
            return found


def _side(box: Window) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def bar_box(card: SearchThing) -> Window:
    """Where the bar of a card lies, in pixels of the scene."""
    x0, y0, x1, y1 = card.box
    width, height = x1 - x0, y1 - y0
    left, top, right, bottom = BAR
    across = x0 + round(left * width), x0 + round(right * width)
    down = y0 + round(top * height), y0 + round(bottom * height)
    return across[0], down[0], across[1], down[1]


def _free_place(
    rng: random.Random, inside: Window, side: int, shares: tuple[float, float], taken: Sequence[Window]
) -> Window | None:
    """A box of a ``shares`` part of ``side`` inside ``inside`` that touches none of ``taken``."""
    left, top, right, bottom = inside
    edge = round(MARGIN * side)
    for _ in range(60):
        width = round(side * rng.uniform(*shares))
        if side * shares[0] < LARGEST_MARK:
            width = min(LARGEST_MARK, width)
        height = round(width * rng.uniform(0.88, 1.0))
        if rng.random() < 0.5:
            width, height = height, width
        if right - left - width < 2 * edge or bottom - top - height < 2 * edge:
            continue
        x = rng.randint(left + edge, right - width - edge)
        y = rng.randint(top + edge, bottom - height - edge)
        box = (x, y, x + width, y + height)
        if not any(_near(box, other, edge) for other in taken):
            return box
    return None


def _near(a: Window, b: Window, gap: int) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


# -- pixels -----------------------------------------------------------------------------------------------


def draw_search_scene(scene: SearchScene) -> Image.Image:
    """The scene's pixels, RGB."""
    return draw_window(scene, (0, 0, *scene.size))


def draw_window(scene: SearchScene, window: Window, longest: int | None = None) -> Image.Image:
    """The part of the scene inside ``window``, its longer side at most ``longest`` pixels, RGB.

    Reduced, it is drawn small, not drawn large and resized: outlines and letters differ by parts of a pixel.
    """
    left, top, right, bottom = window
    scale = 1.0 if longest is None else min(1.0, longest / max(right - left, bottom - top))
    image = _background(scene, window, scale)
    pen = ImageDraw.Draw(image)
    rng = random.Random(f"pixels-{scene.seed}")
    for card in scene.cards:
        _draw(pen, rng, card, window, scale)
    return image


def _draw(
    pen: ImageDraw.ImageDraw, rng: random.Random, part: SearchThing, window: Window, scale: float
) -> None:
    # Colours are drawn before a part is left out: every window shows the same ones.
    fill = jitter_color(rng, COLORS[part.color])
    bar = jitter_color(rng, COLORS[part.bar]) if part.bar else None
    if not _near(part.box, window, 0):
        for inner in part.parts:
            _draw(pen, rng, inner, window, scale)
        return
    box, text_box = (_moved(one, window, scale) for one in (part.box, part.text_box))
    thing = Thing(part.noun, part.color, part.text, box, text_box)
    line = max(1, round(LINE_SHARE * _side(part.box) * scale))
    draw_thing(pen, thing, fill, part.font_size * scale, line=line, stroke=scale)
    if bar is not None:
        pen.rectangle(_moved(bar_box(part), window, scale), fill=bar)
    for inner in part.parts:
        _draw(pen, rng, inner, window, scale)


def _moved(box: Window, window: Window, scale: float) -> Window:
    x0, y0, x1, y1 = box
    left, top = window[:2]
    apart = (x0 - left, y0 - top, x1 - left, y1 - top)
    moved = [round(distance * scale) for distance in apart]
    return moved[0], moved[1], moved[2], moved[3]


def _background(scene: SearchScene, window: Window, scale: float) -> Image.Image:
    """A grey, uneven background with strokes that mean nothing."""
    rng = random.Random(f"background-{scene.seed}")
    left, top, right, bottom = window
    base = rng.randint(120, 190)
    coarse = Image.new("RGB", (8, 8))
    for x in range(8):
        for y in range(8):
            tone = base + rng.randint(-22, 22)
            coarse.putpixel((x, y), jitter_color(rng, (tone, tone, tone), 8))
    # The part of the 8 x 8 grid that lies under the window.
    across, down = 8 / scene.size[0], 8 / scene.size[1]
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    box = (left * across, top * down, right * across, bottom * down)
    image = coarse.resize(size, Image.Resampling.BILINEAR, box=box)
    pen = ImageDraw.Draw(image)
    side = max(scene.size)
    for _ in range(rng.randint(6, 14)):
        ink = jitter_color(rng, (base - 35, base - 35, base - 35), 12)
        x, y = rng.randrange(scene.size[0]), rng.randrange(scene.size[1])
        dx, dy = rng.randint(-side // 5, side // 5), rng.randint(-side // 5, side // 5)
        line = max(1, round(rng.uniform(0.003, 0.009) * side * scale))
        ends = [(x - left) * scale, (y - top) * scale, (x + dx - left) * scale, (y + dy - top) * scale]
        pen.line(ends, fill=ink, width=line)
    return image
