"""The window that stands out in a map, in images of any shape."""

from __future__ import annotations

import math

import pytest

from viscot_core.boxes.attention_map import AttentionMap
from viscot_core.boxes.geometry import Box, Frame, Size


def planted(columns: int, rows: int, place: tuple[int, int], **rest: object) -> AttentionMap:
    """A map with a little attention everywhere and much at ``place`` (column, row)."""
    values = [[1.0] * columns for _ in range(rows)]
    values[place[1]][place[0]] = 50.0
    return AttentionMap(tuple(map(tuple, values)), **rest)  # type: ignore[arg-type]


def test_the_window_is_the_smallest_square_about_the_peak() -> None:
    box = planted(20, 10, (14, 3), side=100).best_box((1000, 500))
    # The cell is 700..750, 150..200 and a window is two cells: it holds the cell, at one of four places.
    assert box.frame is Frame.ORIGINAL and (box.width, box.height) == (100, 100)
    assert box.x0 <= 700 and box.x1 >= 750 and box.y0 <= 150 and box.y1 >= 200


def test_a_wide_peak_gets_a_wide_window() -> None:
    """Three by three bright cells: of all sizes the first that holds them loses most by moving."""
    values = [[1.0] * 20 for _ in range(20)]
    for row in range(8, 11):
        values[row][8:11] = [50.0] * 3
    box = AttentionMap(tuple(map(tuple, values)), side=100).best_box((1000, 1000))
    assert box.coords == (395, 395, 555, 555)


@pytest.mark.parametrize("place", [(0, 0), (19, 0), (0, 9), (19, 9)])
def test_a_window_at_the_border_is_moved_inside(place: tuple[int, int]) -> None:
    box = planted(20, 10, place, side=130).best_box((1000, 500))
    assert 0 <= box.x0 < box.x1 <= 1000 and 0 <= box.y0 < box.y1 <= 500
    assert box.width == box.height and box.width >= 130
    assert box.x0 <= (place[0] + 0.5) * 50 <= box.x1 and box.y0 <= (place[1] + 0.5) * 50 <= box.y1


@pytest.mark.parametrize(
    "size", [(500, 3000), (3000, 500), (20, 20), (1, 1), (1, 4000), (8000, 8000), (337, 336)]
)
@pytest.mark.parametrize("squared", [True, False])
def test_odd_sizes(size: Size, squared: bool) -> None:
    """The window lies inside and has an area; the attention of the padding's cells counts for nothing."""
    peak = planted(12, 12, (0, 0) if squared else (6, 6), squared=squared)
    box = peak.best_box(size)
    assert 0 <= box.x0 < box.x1 <= size[0] and 0 <= box.y0 < box.y1 <= size[1]
    if max(size) <= 336:
        assert box.coords == (0, 0, *size)


def test_the_padding_of_a_square_is_not_looked_at() -> None:
    """A tall image has padding on the left and right; the brightest cell of the image itself wins."""
    values = [[9.0] * 12 for _ in range(12)]
    for row in values:
        row[5], row[6] = 0.1, 0.1
    values[9][6] = 1.0
    box = AttentionMap(tuple(map(tuple, values)), squared=True, side=200).best_box((500, 3000))
    # 250 pixels a cell: row 9 is 2250..2500, column 6 is 250..500 of the image.
    assert box.coords == (250, 2250, 500, 2500)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_map_that_tells_nothing_is_the_whole_image(value: float) -> None:
    assert AttentionMap(((value,) * 12,) * 12).best_box((900, 600)).coords == (0, 0, 900, 600)


def test_what_is_attended_to_in_any_case_is_divided_away() -> None:
    """A cell that swallows attention whatever is asked; one that got none in general divides by nothing."""
    asked = [[0.01] * 10 for _ in range(10)]
    general = [[0.01] * 10 for _ in range(10)]
    asked[0][0], general[0][0] = 0.9, 0.9
    asked[7][7], general[7][7] = 0.05, 0.01
    asked[4][4], general[4][4] = 0.0, 0.0
    one, other = (AttentionMap(tuple(map(tuple, each)), side=100) for each in (asked, general))
    relative = one.relative_to(other)
    assert relative.values[0][0] == pytest.approx(1) and relative.values[7][7] == pytest.approx(5)
    assert relative.values[4][4] == 0
    assert _holds(relative.best_box((1000, 1000)), (750, 750))
    assert _holds(one.best_box((1000, 1000)), (50, 50))


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box.x0 <= point[0] <= box.x1 and box.y0 <= point[1] <= box.y1
