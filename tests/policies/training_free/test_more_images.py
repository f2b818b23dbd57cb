"""Policies that show more images: which ones, and that no size divides by nothing."""

from __future__ import annotations

import pytest
from PIL import Image

from viscot_core.boxes.registry import codec
from viscot_core.conversation import IMAGE
from viscot_core.images.view import GREY, View, view_of
from viscot_core.policies.base import Answer, Question
from viscot_core.policies.training_free.more_images import (
    FULL_PIXELS,
    MOST_TILES,
    MoreImages,
    full_size,
    tile_windows,
)
from viscot_core.policies.wording import Wording

SIZES = [(500, 3000), (3000, 500), (20, 20), (1, 1), (1, 3000), (2, 1), (640, 480)]
WORDING = Wording(codec("viscot"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [1, 2, 3, 4, 6])
def test_tiles_cover_every_pixel_once(size: tuple[int, int], most: int) -> None:
    windows = tile_windows(size, most)
    assert 1 <= len(windows) <= most
    assert all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in windows)
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in windows) == size[0] * size[1]
    assert len(set(windows)) == len(windows)


def test_tiles_are_nearly_square() -> None:
    assert tile_windows((800, 600), 4) == [
        (0, 0, 400, 300), (400, 0, 800, 300), (0, 300, 400, 600), (400, 300, 800, 600)
    ]  # fmt: skip
    assert tile_windows((500, 3000), 4) == [(0, top, 500, top + 750) for top in range(0, 3000, 750)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("what", ["tiles", "duplicate", "blank"])
def test_an_image_for_every_slot_in_one_step(size: tuple[int, int], what: str) -> None:
    view = view_of(Image.new("RGB", size, (9, 90, 200)))
    policy = MoreImages(WORDING, what)  # type: ignore[arg-type]
    step = policy.start(Question("What is it?", (view,)))
    slots = sum(message.text.count(IMAGE) for message in step.messages)
    assert slots == len(step.images) <= MOST_TILES + 1
    assert step.images[0] is view and step.answers
    answer = policy.next(step, "a cat")
    assert isinstance(answer, Answer) and (answer.text, answer.policy, answer.looks) == ("a cat", what, ())


def test_the_controls_show_as_much_and_nothing_new() -> None:
    view = View(Image.new("RGB", (50, 40), (9, 90, 200)), "one")
    twice = MoreImages(WORDING, "duplicate").start(Question("What?", (view,))).images
    assert twice == (view, view)
    _, grey = MoreImages(WORDING, "blank").start(Question("What?", (view,))).images
    assert grey.image.size == (50, 40) and grey.image.getcolors() == [(2000, GREY)]


def test_full_enlarges_what_is_small() -> None:
    view = view_of(Image.new("RGB", (40, 20), (9, 90, 200)))
    (shown,) = MoreImages(WORDING, "full").start(Question("What?", (view,))).images
    assert shown.image.width == 2 * shown.image.height and shown.key != view.key
    wide, high = full_size((2000, 1500))
    assert wide / high == pytest.approx(4 / 3, abs=0.01)
    assert 0.999 * FULL_PIXELS < wide * high <= FULL_PIXELS
    assert full_size((8000, 6000)) == (8000, 6000)
    assert full_size((20, 20)) == (3584, 3584)
    for size in SIZES:
        assert max(full_size(size)) <= 8192 and min(full_size(size)) >= 1
