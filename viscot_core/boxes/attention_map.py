"""Where a model's attention lies on an image, and the window of it that is worth a closer look.

After "MLLMs Know Where to Look" (Zhang et al., ICLR 2025, arXiv 2502.17422): attention to the image's tokens
for a question, divided by that for a general request, and a window that slides over it in several sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viscot_core.boxes.geometry import WHOLE, Box, Frame, Size
from viscot_core.errors import UsageError

WINDOW_SIDE = 336
"""Pixels of the original: the published code's smallest window for LLaVA-1.5, which reads squares of 336."""
SCALES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
"""Sizes of the window that are tried, as the published code does."""
LEAST = 1e-8
"""What a cell without any attention counts as where another map is divided by it."""

AttentionKind = Literal["weights", "gradient"]
"""Attention itself, or attention times what of its gradient is positive (the likeliest token's logarithm)."""


@dataclass(frozen=True, slots=True)
class AttentionOf:
    """Which attention is asked for: of a prompt's last token to the image, in the text model's ``layer``
    (from 0; None: the one that the engine takes for this model), the mean of all heads."""

    kind: AttentionKind = "weights"
    layer: int | None = None

    def check(self, layers: Sequence[int]) -> None:
        """Raise UsageError for a layer that is not among a model's."""
        if self.layer is not None and self.layer not in layers:
            told = ", ".join(map(str, layers))
            raise UsageError(f"--attention-layer is one of this model's layers ({told}), not {self.layer}.")


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """How much attention the parts of an image got: ``values[row][column]``, each 0 or more.

    The cells are equal parts of the image or, where it is ``squared``, of the image padded to a square.
    ``side`` is the side in pixels of the square that the model reads at once.
    """

    values: tuple[tuple[float, ...], ...]
    squared: bool = False
    side: int = WINDOW_SIDE

    def relative_to(self, general: AttentionMap) -> AttentionMap:
        """Each cell divided by that of ``general``, a map of the same image."""
        values = np.array(self.values) / np.maximum(np.array(general.values), LEAST)
        return AttentionMap(tuple(map(tuple, values.tolist())), self.squared, self.side)

    def best_box(self, size: Size) -> Box:
        """The square window of an image of ``size`` that stands out most (ORIGINAL frame, whole pixels).

        It is ``side`` to twice as large: of each size the place with the most attention, and of these the one
        that loses most, a cell, where it moves by one cell. All of the image where it is no larger than the
        smallest window, or where no cell got any attention.
        """
        columns, rows = self._cells_inside(size)
        cells = np.array(self.values)[rows.slice, columns.slice]
        whole = WHOLE.to_original(size).clip(size)
        if not np.isfinite(cells).all() or not cells.any():
            return whole
        # No window is smaller than a cell, of which nothing more is known.
        least = max(float(self.side), columns.cell, rows.cell)
        found: list[tuple[float, Box]] = []
        for side in (least * scale for scale in SCALES):
            wide = min(int(side / columns.cell), cells.shape[1])
            high = min(int(side / rows.cell), cells.shape[0])
            if (high, wide) == cells.shape:
                break
            sums = _window_sums(cells, wide, high)
            row, column = divmod(int(sums.argmax()), sums.shape[1])
            sharpness = (sums[row, column] - np.mean(_beside(sums, row, column))) / (wide * high)
            centre = (
                columns.start + (column + wide / 2) * columns.cell,
                rows.start + (row + high / 2) * rows.cell,
            )
            found.append((float(sharpness), _square_at(centre, side, size)))
        return max(found, key=lambda each: each[0])[1] if found else whole

    def _cells_inside(self, size: Size) -> tuple[_Axis, _Axis]:
        """The columns and rows that show the image and no padding."""
        counts = len(self.values[0]), len(self.values)
        frame = Box(0, 0, 1, 1).to_original(size).coords if self.squared else (0, 0, *size)
        columns, rows = (
            _axis(counts[n], frame[n], (frame[n + 2] - frame[n]) / counts[n], size[n]) for n in (0, 1)
        )
        return columns, rows


@dataclass(frozen=True, slots=True)
class _Axis:
    """Cells of ``cell`` pixels from the pixel ``start`` on: those of ``slice``."""

    slice: slice
    start: float
    cell: float


def _axis(count: int, start: float, cell: float, length: int) -> _Axis:
    """The cells of which at least half shows the image (0..``length``); of a very thin one, those that show
    any of it."""
    shares = [
        max(0.0, min(start + (n + 1) * cell, length) - max(start + n * cell, 0)) / cell for n in range(count)
    ]
    kept = [n for n, share in enumerate(shares) if share >= min(0.5, max(shares))]
    return _Axis(slice(kept[0], kept[-1] + 1), start + kept[0] * cell, cell)


def _window_sums(cells: NDArray[np.float64], wide: int, high: int) -> NDArray[np.float64]:
    """The sum of each window of ``wide`` x ``high`` cells, by its first row and column."""
    total = np.pad(cells, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums: NDArray[np.float64] = (
        total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    )
    return sums


def _beside(sums: NDArray[np.float64], row: int, column: int) -> list[float]:
    """The sums of the windows one cell away: at least one, where a window is smaller than the map."""
    places = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return [float(sums[y, x]) for y, x in places if 0 <= y < sums.shape[0] and 0 <= x < sums.shape[1]]


def _square_at(centre: tuple[float, float], side: float, size: Size) -> Box:
    """A square about ``centre``, moved inside the image; as long as the image where it is longer."""
    low, high = [], []
    for middle, length in zip(centre, size, strict=True):
        across = min(round(side), length)
        start = min(max(round(middle - across / 2), 0), length - across)
        low.append(start)
        high.append(start + across)
    return Box(low[0], low[1], high[0], high[1], Frame.ORIGINAL)
