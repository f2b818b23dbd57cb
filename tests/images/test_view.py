"""Views: crops and keys."""

from __future__ import annotations

from PIL import Image

from viscot_core.images.view import View, crop, view_of


def test_crops_are_named_by_image_and_window() -> None:
    view = View(Image.new("RGB", (10, 10)), "a.png")
    part = crop(view, (1, 2, 5, 6))
    assert part.image.size == (4, 4)
    assert part.key == "a.png###[1, 2, 5, 6]"


def test_views_of_equal_pixels_share_a_key() -> None:
    one, two = Image.new("RGB", (4, 2)), Image.new("RGB", (4, 2))
    assert view_of(one).key == view_of(two).key
    assert view_of(one).key != view_of(one.rotate(90, expand=True)).key
