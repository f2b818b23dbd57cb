"""Views: crops and keys."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from PIL import Image, ImageChops

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


WAYS: dict[str, Callable[[Image.Image], object]] = {
    "bytes": lambda image: image.tobytes(),
    "array": lambda image: np.asarray(image).tobytes(),
    "resized": lambda image: image.resize((7, 9), Image.Resampling.BICUBIC).tobytes(),
    "crop": lambda image: image.crop((1, 2, 9, 8)).tobytes(),
    "crop of a crop": lambda image: crop(View(image, ""), (1, 2, 9, 8)).image.tobytes(),
    "pasted": lambda image: pasted(image).tobytes(),
    "copy": lambda image: image.copy().tobytes(),
    "transposed": lambda image: image.transpose(Image.Transpose.ROTATE_90).tobytes(),
    "grey": lambda image: image.convert("L").tobytes(),
    "pixel": lambda image: image.getpixel((3, 4)),
    "extremes": lambda image: image.getextrema(),
    "saved": lambda image: saved(image),
    "pickled": lambda image: pickle.loads(pickle.dumps(image)).tobytes(),
    "inverted": lambda image: ImageChops.invert(image).tobytes(),
    "key": lambda image: view_of(image).key,
}


def pasted(image: Image.Image) -> Image.Image:
    square = Image.new("RGB", (60, 60))
    square.paste(image, (3, 4))
    return square


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", [(3, 2, 33, 27), (-4, -3, 20, 18), (30, 20, 60, 50)])
def test_a_part_is_pillows_own_whatever_is_done_first(way: str, window: tuple[int, int, int, int]) -> None:
    """Cut as late as its pixels are wanted, also beyond the edges of the whole."""
    whole = Image.effect_noise((40, 30), 90).convert("RGB")
    whole.info["dpi"] = (72, 72)
    part = crop(View(whole, "a"), window).image
    expected = whole.crop(window)
    assert (part.size, part.mode, part.info) == (expected.size, expected.mode, expected.info)
    assert WAYS[way](part) == WAYS[way](expected)
    assert part.tobytes() == expected.tobytes()


def test_a_part_is_cut_once_and_lets_go_of_the_whole() -> None:
    whole = Image.effect_noise((40, 30), 90).convert("RGB")
    part = crop(View(whole, "a"), (3, 2, 33, 27)).image
    together = Barrier(4)

    def ask(_: int) -> bytes:
        together.wait(20)
        return part.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(4))) == {whole.crop((3, 2, 33, 27)).tobytes()}
    assert vars(part)["_uncut"] is None


def test_a_window_without_pixels_is_refused_at_once() -> None:
    whole = View(Image.new("RGB", (9, 9)), "a")
    with pytest.raises(ValueError, match="'right' is less"):
        crop(whole, (5, 0, 2, 4))
    assert crop(whole, (2, 2, 2, 4)).image.size == (0, 2)
