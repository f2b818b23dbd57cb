"""Drawing an answer: the image with box and crop, the crop beside it, the words below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from viscot_core.boxes.geometry import Box, Window
from viscot_core.errors import UsageError
from viscot_core.files import atomic_path
from viscot_core.images.lettering import width_of, write

BOX_COLOR, WINDOW_COLOR = (220, 30, 30), (255, 255, 255)
_PAPER, _INK = (250, 250, 250), (20, 20, 20)
_GAP, _LINE, _FONT_SIZE, _STROKE = 12, 28, 20, 3
_LEAST_WIDTH = 560
"""Of the sheet, px: room for a few words beside one another under the narrowest image."""
_WIDEST = 3.0
"""A panel is at most this much wider than high; a longer strip is drawn lower."""


def draw_answer(
    image: Image.Image, box: Box | None, window: Window | None, lines: Sequence[str], *, height: int = 420
) -> Image.Image:
    """Image with its box (red) and crop window (white) at the left, the crop at the right, ``lines`` below.

    Without a box none is drawn; without a window the image stands alone. Long lines are wrapped.
    """
    left = _fitted(image, height)
    if window is not None:
        _frame(left, window, image.size, WINDOW_COLOR)
    if box is not None:
        _frame(left, box.to_original(image.size).clip(image.size).coords, image.size, BOX_COLOR)
    panels = [left]
    if window is not None:
        panels.append(_fitted(image.crop(window), height))
    width = max(sum(p.width + _GAP for p in panels) + _GAP, _LEAST_WIDTH)
    words = [part for line in lines for part in _wrapped(line, width - 2 * _GAP)]
    top = max(panel.height for panel in panels)
    sheet = Image.new("RGB", (width, top + 3 * _GAP + _LINE * len(words)), _PAPER)
    x = _GAP
    for panel in panels:
        sheet.paste(panel, (x, _GAP))
        x += panel.width + _GAP
    pen = ImageDraw.Draw(sheet)
    for number, part in enumerate(words):
        write(pen, (_GAP, top + 2 * _GAP + number * _LINE), part, _FONT_SIZE, _INK)
    return sheet


def draw_steps(
    image: Image.Image,
    steps: Sequence[tuple[Image.Image, Box, Window | None, str]],
    lines: Sequence[str],
    *,
    height: int = 420,
) -> Image.Image:
    """For each step its image with the box, the crop and its words, one below the other; then ``lines``.

    Without a step ``image`` stands alone.
    """
    sheets = [draw_answer(of, box, window, [words], height=height) for of, box, window, words in steps]
    if not sheets:
        return draw_answer(image, None, None, lines, height=height)
    width = max(sheet.width for sheet in sheets)
    words = [part for line in lines for part in _wrapped(line, width - 2 * _GAP)]
    top = sum(sheet.height for sheet in sheets)
    whole = Image.new("RGB", (width, top + 2 * _GAP + _LINE * len(words)), _PAPER)
    y = 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height
    pen = ImageDraw.Draw(whole)
    for number, part in enumerate(words):
        write(pen, (_GAP, top + _GAP + number * _LINE), part, _FONT_SIZE, _INK)
    return whole


def save_image(image: Image.Image, target: Path) -> None:
    """Write ``image`` whole or not at all; the folder is made where it is missing.

    Raises:
        UsageError: as ``check_ending`` says.
    """
    check_ending(target)
    with atomic_path(target) as partial:
        # The format is given, as the partial file has another ending.
        image.save(partial, Image.registered_extensions()[target.suffix.lower()])


def check_ending(target: Path) -> None:
    """Raise a UsageError where Pillow writes no image of the target's ending."""
    if Image.registered_extensions().get(target.suffix.lower()) not in Image.SAVE:
        raise UsageError(f"{target}: images are saved as .png or .jpg; change the ending.")


def _frame(
    panel: Image.Image, region: Sequence[float], size: tuple[int, int], color: tuple[int, int, int]
) -> None:
    """Draw a region, in pixels of an image of ``size``, on the panel that shows that image."""
    across, down = panel.width / size[0], panel.height / size[1]
    x0, y0, x1, y1 = region
    # Pillow's rectangles include their last pixel.
    corners = (x0 * across, y0 * down, x1 * across - 1, y1 * down - 1)
    if corners[0] <= corners[2] and corners[1] <= corners[3]:
        pen = ImageDraw.Draw(panel)
        # A second line in another colour around it: a box is seen on an image of its own colour.
        around = (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1)
        pen.rectangle(around, outline=_INK if color == WINDOW_COLOR else _PAPER, width=_STROKE + 2)
        pen.rectangle(corners, outline=color, width=_STROKE)


def _fitted(image: Image.Image, height: int) -> Image.Image:
    scale = min(height / image.height, _WIDEST * height / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _wrapped(line: str, width: int) -> Iterator[str]:
    """The line in pieces that fit ``width`` px, cut between words, or inside one that is too long alone."""
    piece = ""
    for word in line.split():
        longer = f"{piece} {word}" if piece else word
        if width_of(longer, _FONT_SIZE) <= width:
            piece = longer
            continue
        if piece:
            yield piece
        while width_of(word, _FONT_SIZE) > width:
            end = len(word)
            while end > 1 and width_of(word[:end], _FONT_SIZE) > width:
                # In proportion to what is too long, by 5 % at least: few measurements for a word of any
                # length.
                end = max(1, int(end * min(0.95, width / width_of(word[:end], _FONT_SIZE))))
            yield word[:end]
            word = word[end:]
        piece = word
    yield piece
