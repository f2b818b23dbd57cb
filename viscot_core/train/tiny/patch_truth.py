"""What lies under each patch of a synthetic view: the truth that the foundation stage's heads must tell."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from viscot_core.boxes.geometry import MIN_CROP_SIDE, Box, Frame, Window
from viscot_core.data.scenes import COLORS, Scene, Thing, draw_thing, jitter_color
from viscot_core.families.base import IGNORE

NOTHING = len(COLORS)
"""Colour class of a patch that no object covers."""
READABLE_PX = 9.0
"""Font size in the view from which digits are asked of the tower."""


@dataclass(frozen=True, slots=True)
class PatchTruth:
    """Per patch of a view, row-major: ``color int[n]``, ``glyph int[n]`` (10: none), ``tens`` and ``units``
    of the object's number ``int[n]`` (IGNORE where absent or unreadable), ``box float[n, 4]`` 0..1."""

    color: NDArray[np.int64]
    glyph: NDArray[np.int64]
    tens: NDArray[np.int64]
    units: NDArray[np.int64]
    box: NDArray[np.float32]


def patch_truth(scene: Scene, window: Window, grid: int, view_side: int) -> PatchTruth:
    """What lies under each of ``grid x grid`` patches of the view that shows ``window`` of the scene."""
    left, top, right, bottom = window
    size = (right - left, bottom - top)
    count = grid * grid
    truth = PatchTruth(
        np.full(count, NOTHING), np.full(count, 10), np.full(count, IGNORE), np.full(count, IGNORE),
        np.zeros((count, 4), np.float32),
    )  # fmt: skip
    centres = (np.arange(grid) + 0.5) / grid
    readable = scene.font_size * view_side / max(size) >= READABLE_PX
    for thing in scene.things:
        box = view_box(thing.box, window)
        rows = (centres > box.y0) & (centres < box.y1)
        columns = (centres > box.x0) & (centres < box.x1)
        under = np.outer(rows, columns).ravel()
        truth.color[under] = list(COLORS).index(thing.color)
        truth.box[under] = box.clip((1, 1)).coords
        text = view_box(thing.text_box, window)
        inside = min(text.coords) >= 0 and max(text.coords) <= 1
        if readable and inside:
            truth.tens[under] = int(thing.text[0])
            truth.units[under] = int(thing.text[1])
            _mark_glyphs(truth.glyph, thing, text, grid)
        elif not readable:
            truth.glyph[under] = IGNORE
    return truth


def view_box(box: Window, window: Window) -> Box:
    """A box of the scene (pixels) in the 0..1 frame of the view that shows ``window``."""
    left, top, right, bottom = window
    moved = Box(box[0] - left, box[1] - top, box[2] - left, box[3] - top, Frame.ORIGINAL)
    return moved.to_square((right - left, bottom - top))


def _mark_glyphs(glyph: NDArray[np.int64], thing: Thing, text: Box, grid: int) -> None:
    """The patch under each digit's middle; two digits in one patch leave it unasked."""
    row = int((text.y0 + text.y1) / 2 * grid)
    first = int((text.x0 + text.width * 0.25) * grid)
    second = int((text.x0 + text.width * 0.75) * grid)
    if first == second:
        glyph[row * grid + first] = IGNORE
        return
    glyph[row * grid + first] = int(thing.text[0])
    glyph[row * grid + second] = int(thing.text[1])


def make_sheet(seed: int, side: int = MIN_CROP_SIDE) -> tuple[Image.Image, Scene]:
    """A ``side x side`` image full of coloured fields with numbers, in a crop's scale, and its truth."""
    rng = random.Random(f"sheet-{seed}")
    image = Image.new("RGB", (side, side), jitter_color(rng, (150, 150, 150), 40))
    pen = ImageDraw.Draw(image)
    font_size = rng.randint(side // 9, side // 5)
    columns, rows = (3, 4) if font_size < side / 7 else (2, 3)
    cell_w, cell_h = side / columns, side / rows
    things: list[Thing] = []
    for row in range(rows):
        for column in range(columns):
            width = rng.uniform(0.82, 0.98) * cell_w
            height = rng.uniform(0.75, 0.98) * cell_h
            x = column * cell_w + rng.uniform(0, cell_w - width)
            y = row * cell_h + rng.uniform(0, cell_h - height)
            box = (int(x), int(y), int(x + width), int(y + height))
            things.append(_sheet_field(rng, box, font_size))
            draw_thing(pen, things[-1], jitter_color(rng, COLORS[things[-1].color]), font_size)
    return image, Scene(seed, (side, side), font_size, tuple(things))


def _sheet_field(rng: random.Random, box: Window, font_size: int) -> Thing:
    width, height = round(font_size * 1.2), round(font_size * 0.8)
    slack_x = max(0, (box[2] - box[0] - width) // 2 - 2)
    slack_y = max(0, (box[3] - box[1] - height) // 2 - 2)
    x = (box[0] + box[2] - width) // 2 + rng.randint(-slack_x, slack_x)
    y = (box[1] + box[3] - height) // 2 + rng.randint(-slack_y, slack_y)
    text = str(rng.randint(10, 99))
    return Thing("card", rng.choice(list(COLORS)), text, box, (x, y, x + width, y + height))
