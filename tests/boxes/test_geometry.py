"""Boxes: frames round-trip, text is read or refused, the crop is the reference's and inside the image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.boxes.geometry import (
    WHOLE,
    Box,
    BoxStatus,
    CropPolicy,
    Frame,
    crop_window,
    format_box,
    iou,
    parse_box,
)

sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
unit = st.floats(0, 1)
square_boxes = st.builds(
    lambda a, b, c, d: Box(min(a, c), min(b, d), max(a, c), max(b, d)), unit, unit, unit, unit
)


@given(size=sizes, box=square_boxes)
def test_frames_round_trip_within_a_pixel(size: tuple[int, int], box: Box) -> None:
    there = box.to_original(size)
    back = there.to_square(size)
    assert there.frame is Frame.ORIGINAL
    assert back.coords == pytest.approx(box.coords, abs=1e-9)
    words = parse_box(format_box(box)).box if box.area > 0.01 else box
    side = max(size)
    assert words.to_original(size).coords == pytest.approx(there.coords, abs=0.0005 * side + 1e-6)


def test_wide_tall_and_square_images_have_the_image_in_the_middle() -> None:
    assert Box(0, 0, 640, 480, Frame.ORIGINAL).to_square((640, 480)).coords == (0, 0.125, 1, 0.875)
    assert Box(0, 0, 480, 640, Frame.ORIGINAL).to_square((480, 640)).coords == (0.125, 0, 0.875, 1)
    assert Box(0, 0, 500, 500, Frame.ORIGINAL).to_square((500, 500)).coords == (0, 0, 1, 1)


@given(size=sizes, box=square_boxes, policy=st.sampled_from(list(CropPolicy)))
def test_every_crop_lies_inside_and_is_not_empty(size: tuple[int, int], box: Box, policy: CropPolicy) -> None:
    left, top, right, bottom = crop_window(box, size, policy)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


@given(size=st.tuples(st.integers(230, 3000), st.integers(230, 3000)), box=square_boxes)
def test_the_paper_crop_is_at_least_224_pixels(size: tuple[int, int], box: Box) -> None:
    left, top, right, bottom = crop_window(box, size)
    assert right - left >= 224
    assert bottom - top >= 224


def test_crops_equal_the_reference(golden: Path) -> None:
    rows = [json.loads(line) for line in (golden / "crops.jsonl").read_text().splitlines()]
    assert len(rows) > 80
    for row in rows:
        size = (row["size"][0], row["size"][1])
        assert list(crop_window(Box(*row["box"]), size)) == row["crop"], row


def test_crops_of_benchmark_rows_equal_the_reference(shared: Path) -> None:
    checked = 0
    for line in (shared / "golden/crops.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "benchmark_row":
            size = (row["size"][0], row["size"][1])
            assert list(crop_window(Box(*row["box"]), size)) == row["eval"]["pil_box"], row
            checked += 1
    assert checked


def test_other_crop_policies() -> None:
    box = Box(0.1, 0.1, 0.3, 0.2)
    size = (1000, 1000)
    assert crop_window(box, size, CropPolicy.TIGHT) == (100, 100, 300, 200)
    assert crop_window(box, size, CropPolicy.EXPANDED) == (50, 75, 350, 225)
    assert crop_window(box, size, CropPolicy.CENTERED) == (88, 38, 312, 262)
    assert crop_window(Box(0, 0, 0.1, 0.1), size, CropPolicy.CENTERED) == (0, 0, 162, 162)


def test_a_crop_of_no_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="no crop"):
        crop_window(Box(float("nan"), 0, 1, 1), (10, 10))


@pytest.mark.parametrize(
    ("text", "status", "coords"),
    [
        ("[0.282, 0.316, 0.794, 0.738]", "ok", (0.282, 0.316, 0.794, 0.738)),
        (" [0.000, 0.000, 1.000, 1.000]\n", "ok", (0, 0, 1, 1)),
        ("[0.1, 0.2, 0.3, 0.4]", "repaired", (0.1, 0.2, 0.3, 0.4)),
        ("[.1,.2,.3,.4].", "repaired", (0.1, 0.2, 0.3, 0.4)),
        ("0.1, 0.2, 0.3, 0.4", "repaired", (0.1, 0.2, 0.3, 0.4)),
        ("The region is [0.1, 0.2, 0.3, 0.4] I think", "repaired", (0.1, 0.2, 0.3, 0.4)),
        ("[0.900, 0.800, 0.100, 0.200]", "repaired", (0.1, 0.2, 0.9, 0.8)),
        ("[-0.020, 0.200, 1.030, 0.400]", "repaired", (0, 0.2, 1, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4] [0.1, 0.2, 0.3, 0.4]", "repaired", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]", "unparsable", WHOLE.coords),
        ("[0.1, 0.2, 0.3]", "unparsable", WHOLE.coords),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", "unparsable", WHOLE.coords),
        ("[1, 2, 300, 400]", "unparsable", WHOLE.coords),
        ("[0.5, 0.5, 0.5, 0.5]", "unparsable", WHOLE.coords),
        ("No", "unparsable", WHOLE.coords),
        ("", "unparsable", WHOLE.coords),
    ],
)
def test_boxes_are_read_or_refused(text: str, status: str, coords: tuple[float, ...]) -> None:
    parsed = parse_box(text)
    assert parsed.status == status
    assert parsed.box.coords == pytest.approx(coords)
    assert parsed.text == text


@given(st.text(alphabet="[]0123456789., -eE\nabc\u0661", max_size=60) | st.text(max_size=40))
def test_parsing_never_raises_and_always_gives_a_usable_box(text: str) -> None:
    parsed = parse_box(text)
    assert parsed.status in BoxStatus
    crop_window(parsed.box, (640, 480))


@given(a=square_boxes, b=square_boxes)
def test_iou_is_symmetric_and_bounded(a: Box, b: Box) -> None:
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0 <= iou(a, b) <= 1 + 1e-9
    if a.area > 1e-9:
        assert iou(a, a) == pytest.approx(1)


def test_boxes_of_two_frames_do_not_compare() -> None:
    with pytest.raises(ValueError, match="different frames"):
        iou(WHOLE, Box(0, 0, 1, 1, Frame.ORIGINAL))
    with pytest.raises(ValueError, match="square frame"):
        format_box(Box(0, 0, 1, 1, Frame.ORIGINAL))
