"""Where an image's tokens lie on the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viscot_core.boxes.attention_map import WINDOW_SIDE, AttentionMap

DEPTH = 14 / 32
"""Which share of the text layers lies below the one whose attention shows best where a model looks: LLaVA-1.5
has 32, and the code published with arXiv 2502.17422 reads number 14, from 0."""

Across = tuple[int, int]
"""How many stand side by side, and how many below each other."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The tokens of one image, in the order in which the model reads them.

    The image, or with ``squared`` the image padded to a square, is cut into ``tiles``, each of which has
    ``cells`` tokens; tiles and the tokens of a tile go row by row. With ``overview`` one more tile comes
    last: all of the image. ``side`` is the side in pixels of the square that the model reads at once.
    """

    cells: Across
    tiles: Across = (1, 1)
    overview: bool = False
    squared: bool = False
    side: int = WINDOW_SIDE

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.cells[0] * self.cells[1] * (self.tiles[0] * self.tiles[1] + self.overview)

    def map_of(self, values: Sequence[float]) -> AttentionMap:
        """What each token got, laid out over the image.

        A part of the image that both a tile and the overview show has what both of their tokens got: a token
        of the overview shares its value out to the cells that it covers.
        """
        (wide, high), (across, down) = self.cells, self.tiles
        tiled = np.array(values[: wide * high * across * down], dtype=np.float64)
        # [tile row, tile, cell row, cell] -> rows of cells over all tiles of a tile row.
        laid = (
            tiled.reshape(down, across, high, wide).transpose(0, 2, 1, 3).reshape(down * high, across * wide)
        )
        if self.overview:
            whole = np.array(values[tiled.size :], dtype=np.float64).reshape(high, wide)
            laid = laid + np.kron(whole, np.ones((down, across))) / (across * down)
        return AttentionMap(tuple(map(tuple, laid.tolist())), self.squared, self.side)
