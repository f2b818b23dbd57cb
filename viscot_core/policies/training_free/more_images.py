"""More image for the same question, without a look: tiles of it, all its pixels, and the fair controls.

A policy that shows more images gives the model more tokens to read. ``duplicate`` shows the image twice and
``blank`` a grey one beside it: what tiles gain above these is gained by their detail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from viscot_core.boxes.geometry import Size, Window
from viscot_core.conversation import final_words
from viscot_core.images.view import View, crop, grey, resized
from viscot_core.policies.base import Answer, Question, Step, answer_step
from viscot_core.policies.wording import Wording

More = Literal["full", "tiles", "duplicate", "blank"]
MOST_TILES = 4
FULL_PIXELS = 16384 * 28 * 28
"""Qwen2.5-VL's largest image (16,384 tokens of 28 px), the largest of the families here: each family makes a
larger one as small as it must, which leaves the largest size that it allows."""
FULL_SIDE = 8192
"""No side is made longer than this."""


@dataclass(frozen=True)
class MoreImages:
    """One step: the first image, then ``what``, then the question. ``most`` is the number of tiles.

    ``full`` shows the first image alone, enlarged to ``FULL_PIXELS`` where it has fewer.
    """

    wording: Wording
    what: More
    most: int = MOST_TILES

    @property
    def name(self) -> str:
        return self.what

    def start(self, question: Question) -> Step:
        """The question about all images."""
        view = question.images[0]
        images = (resized(view, full_size),) if self.what == "full" else (view, *self._more(view))
        return answer_step(question, self.wording.direct(question.text, len(images)), images)

    def next(self, step: Step, text: str) -> Answer:
        """The answer."""
        return Answer(final_words(text), step.question.size, policy=self.name)

    def _more(self, view: View) -> tuple[View, ...]:
        if self.what == "duplicate":
            return (view,)
        if self.what == "blank":
            return (grey(view.image.size),)
        windows = tile_windows(view.image.size, self.most)
        # One tile is the image once more: nothing would be gained by it.
        return tuple(crop(view, window) for window in windows) if len(windows) > 1 else ()


def full_size(size: Size) -> Size:
    """``size`` enlarged to ``FULL_PIXELS``, its sides in the same ratio; a larger image keeps its size."""
    scale = min(math.sqrt(FULL_PIXELS / (size[0] * size[1])), FULL_SIDE / max(size))
    return size if scale <= 1 else (math.floor(size[0] * scale), math.floor(size[1] * scale))


def tile_windows(size: Size, most: int) -> list[Window]:
    """The image of ``size`` cut into at most ``most`` tiles, as nearly square as they can be, row by row.

    No tile is empty: an image of fewer pixels than tiles has fewer tiles.
    """
    wide, high = size
    grids = [
        (across, down)
        for across in range(1, min(most, wide) + 1)
        for down in range(1, min(most // across, high) + 1)
    ]
    # Of all grids with the most tiles, the one whose tiles are nearest to a square.
    many = max(across * down for across, down in grids)
    across, down = min(
        (grid for grid in grids if grid[0] * grid[1] == many),
        key=lambda grid: abs(math.log((wide / grid[0]) / (high / grid[1]))),
    )
    columns = [round(number * wide / across) for number in range(across + 1)]
    rows = [round(number * high / down) for number in range(down + 1)]
    return [(left, top, right, bottom) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]
