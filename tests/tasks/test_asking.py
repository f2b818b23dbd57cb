"""What the benchmarks share: how a box that was named is measured against the annotated one."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.boxes.registry import codec
from viscot_core.tasks.asking import overlap
from viscot_core.tasks.items import Item

SIZE = (640, 480)


@pytest.mark.parametrize(
    ("family", "reply", "found"),
    [
        ("viscot", "[0.250, 0.250, 0.750, 0.750]", 1.0),
        ("viscot", "I see no box.", 0.0),
        ("molmo", '<point x="60.0" y="50.0" alt="x">x</point>', None),
        ("molmo", "I see no point.", None),
    ],
)
def test_an_unreadable_box_overlaps_nothing_and_a_family_that_points_has_no_overlap(
    family: str, reply: str, found: float | None
) -> None:
    truth = Box(0.25, 0.25, 0.75, 0.75, Frame.SQUARE).to_original(SIZE)
    item = Item("made", 1, "a.jpg", Path("a.jpg"), SIZE, "q", truth)
    spoken = codec(family)
    parsed = spoken.parse(reply, SIZE)
    measured = overlap(parsed, parsed.box, item, spoken.points)
    assert measured == (None if found is None else pytest.approx(found))
