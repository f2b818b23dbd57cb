"""Synthetic scenes: coloured objects with numbers that are too small to read in the whole image.

A scene is described as data (which object is where) before it is drawn, so tests and the small model's
foundation stage know the content of every patch. The seed determines everything.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from viscot_core.boxes.geometry import Size

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "orange": (240, 140, 20),
    "yellow": (245, 220, 50),
    "green": (40, 150, 60),
    "blue": (40, 85, 205),
    "purple": (135, 50, 165),
    "black": (28, 28, 30),
    "white": (248, 248, 246),
}
NOUNS = ("card", "disc", "tag")

TEXT_SHARE = 0.043
"""Font size as a share of the longer side: 4.8 px in the whole image at 112 px, 14-22 px in a crop."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: its name in words, its box and its text's box in pixels of the scene."""

    noun: str
    color: str
    text: str
    box: tuple[int, int, int, int]
    text_box: tuple[int, int, int, int]

    @property
    def expression(self) -> str:
        """A referring expression as in RefCOCO."""
        return f"the {self.color} {self.noun}"


@dataclass(frozen=True, slots=True)
class Scene:
    """An image's content. ``seed`` also draws its background."""

    seed: int
    size: Size
    font_size: int
    things: tuple[Thing, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Scene:
        things = tuple(
            Thing(t["noun"], t["color"], t["text"], tuple(t["box"]), tuple(t["text_box"]))
            for t in row["things"]
        )
        return cls(row["seed"], (row["size"][0], row["size"][1]), row["font_size"], things)


def make_scene(seed: int) -> Scene:
    """Three to five objects of different colours that do not touch, in an image of 448-1024 px."""
    rng = random.Random(seed)
    side = rng.randrange(640, 1025, 8)
    short = rng.randrange(max(448, side * 5 // 8), side + 1, 8)
    size = rng.choice([(side, short), (short, side)])
    font_size = round(side * TEXT_SHARE * rng.uniform(0.93, 1.07))
    things: list[Thing] = []
    for color in rng.sample(list(COLORS), rng.randint(3, 5)):
        box = _free_place(rng, size, side, things)
        if box is None:
            continue
        text = str(rng.randint(10, 99))
        things.append(Thing(rng.choice(NOUNS), color, text, box, place_text(rng, text, font_size, box)))
    return Scene(seed, size, font_size, tuple(things))


def _free_place(
    rng: random.Random, size: Size, side: int, things: list[Thing]
) -> tuple[int, int, int, int] | None:
    """A box of 15-22 % of the longer side (at most the 224 px of the crop window) that touches no other."""
    for _ in range(60):
        width = min(222, round(side * rng.uniform(0.15, 0.22)))
        height = min(222, round(width * rng.uniform(0.72, 1.1)))
        x = rng.randint(4, size[0] - width - 4)
        y = rng.randint(4, size[1] - height - 4)
        box = (x, y, x + width, y + height)
        gap = 8
        if all(
            box[2] + gap < t.box[0]
            or t.box[2] + gap < box[0]
            or box[3] + gap < t.box[1]
            or t.box[3] + gap < box[1]
            for t in things
        ):
            return box
    return None


@lru_cache(maxsize=256)  # Pillow unpacks the font's file anew at every call
def font_of(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own font, ``size`` pixels high."""
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this build of Pillow has no FreeType; install the Pillow wheel from PyPI")
    return font


def place_text(
    rng: random.Random, text: str, font_size: int, box: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The position of the text: near the object's centre, with a random offset."""
    left, top, right, bottom = font_of(font_size).getbbox(text, stroke_width=1)
    width, height = round(right - left), round(bottom - top)
    jitter_x = max(0, (box[2] - box[0] - width) // 5)
    jitter_y = max(0, (box[3] - box[1] - height) // 5)
    cx = (box[0] + box[2]) // 2 + rng.randint(-jitter_x, jitter_x)
    cy = (box[1] + box[3]) // 2 + rng.randint(-jitter_y, jitter_y)
    x, y = cx - width // 2, cy - height // 2
    return (x, y, x + width, y + height)


def draw_scene(scene: Scene) -> Image.Image:
    """The scene's pixels, RGB."""
    rng = random.Random(f"pixels-{scene.seed}")
    image = _background(rng, scene.size)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        fill = jitter_color(rng, COLORS[thing.color])
        draw_thing(pen, thing, fill, scene.font_size)
    return image


def draw_thing(
    pen: ImageDraw.ImageDraw,
    thing: Thing,
    fill: tuple[int, int, int],
    font_size: float,
    *,
    line: int = 2,
    stroke: float = 1,
) -> None:
    """Draw one object, outlined by ``line`` pixels, with its number in a contrasting colour."""
    x0, y0, x1, y1 = thing.box
    edge = tuple(c * 2 // 3 for c in fill)
    if thing.noun == "disc":
        pen.ellipse(thing.box, fill=fill, outline=edge, width=line)
    elif thing.noun == "tag":
        cut = (x1 - x0) // 5
        corners = [(x0 + cut, y0), (x1 - cut, y0), (x1, (y0 + y1) // 2), (x1 - cut, y1), (x0 + cut, y1)]
        pen.polygon([*corners, (x0, (y0 + y1) // 2)], fill=fill, outline=edge, width=line)
    else:
        pen.rounded_rectangle(thing.box, radius=(x1 - x0) // 10, fill=fill, outline=edge, width=line)
    if not thing.text:
        return
    # About half of 3 x 255: dark ink on light colours, light ink on dark ones.
    ink = (15, 15, 15) if sum(fill) > 390 else (250, 250, 250)
    font = font_of(font_size)
    left, top, *_ = font.getbbox(thing.text, stroke_width=stroke)
    at = (thing.text_box[0] - left, thing.text_box[1] - top)
    pen.text(at, thing.text, fill=ink, font=font, stroke_width=stroke, stroke_fill=ink)


def jitter_color(rng: random.Random, color: tuple[int, int, int], by: int = 14) -> tuple[int, int, int]:
    """``color`` with each channel moved by at most ``by``."""
    red, green, blue = (min(255, max(0, c + rng.randint(-by, by))) for c in color)
    return red, green, blue


def _background(rng: random.Random, size: Size) -> Image.Image:
    """A grey, uneven background with strokes and shapes without meaning."""
    base = rng.randint(120, 190)
    coarse = Image.new("RGB", (6, 6))
    for x in range(6):
        for y in range(6):
            tone = base + rng.randint(-22, 22)
            coarse.putpixel((x, y), jitter_color(rng, (tone, tone, tone), 8))
    image = coarse.resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 12)):
        ink = jitter_color(rng, (base - 35, base - 35, base - 35), 12)
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        dx, dy = rng.randint(-200, 200), rng.randint(-200, 200)
        if rng.random() < 0.6:
            pen.line((x, y, x + dx, y + dy), fill=ink, width=rng.randint(2, 9))
        else:
            spot = rng.randint(10, 40)
            pen.ellipse((x, y, x + spot, y + spot), outline=ink, width=rng.randint(2, 6))
    return image
