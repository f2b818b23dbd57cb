"""Pixels equal the reference's bit for bit."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core.families.llava import pixels
from viscot_core.families.llava.pixels import pad_to_square, preprocess, square_pixels
from viscot_core.images.reading import open_image


def test_pixels_equal_the_reference_bit_for_bit(golden: Path) -> None:
    expected = json.loads((golden / "preprocess.json").read_text())
    assert len(expected) >= 10
    for name, by_side in expected.items():
        image = open_image(golden / "images" / name)
        for side, digest in by_side.items():
            pixels = np.ascontiguousarray(preprocess(image, int(side)))
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == digest, (name, side)


@pytest.mark.parametrize("side", [56, 336])
def test_a_wide_image_gives_the_pixels_of_its_square(side: int) -> None:
    """Its rows are resized before they are padded, which no pixel tells: larger, smaller, few rows, one."""
    draw = np.random.default_rng(side)
    sizes = [(640, 480), (1000, 3), (337, 336), (61, 20), (57, 56), (2, 1), (1200, 601), (336, 99), (56, 55)]
    for width, height in sizes:
        # Values at both ends as well: bicubic weights overshoot and are cut.
        noise = draw.choice(np.array([0, 1, 100, 254, 255], np.uint8), (height, width, 3))
        image = Image.fromarray(noise)
        square = pad_to_square(image)
        expected = square.resize((side, side), Image.Resampling.BICUBIC)
        assert np.array_equal(square_pixels(image, side), np.asarray(expected)), (width, height)


@pytest.mark.parametrize("mode", ["P", "CMYK", "1"])
def test_another_mode_gives_the_pixels_of_its_square_too(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8)).convert(mode)
    expected = pad_to_square(image).resize((56, 56), Image.Resampling.BICUBIC)
    assert np.array_equal(square_pixels(image, 56), np.asarray(expected))


@pytest.mark.filterwarnings("error")
def test_quick_pixels_set_no_filters_of_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the whole process's, and images are prepared by threads."""
    monkeypatch.setattr(warnings, "catch_warnings", None)
    assert pixels.quick_square_pixels(Image.new("RGB", (90, 70)), 56).shape == (56, 56, 3)


def test_quick_pixels_stay_within_two_of_255(golden: Path) -> None:
    differ, count = 0, 0
    for name in json.loads((golden / "preprocess.json").read_text()):
        image = open_image(golden / "images" / name)
        for side in (56, 112, 224, 336):
            exact = pixels.square_pixels(image, side).astype(int)
            quick = pixels.quick_square_pixels(image, side)
            assert quick.dtype == np.uint8 and quick.shape == (side, side, 3)
            difference = np.abs(quick.astype(int) - exact)
            assert difference.max() <= 2, (name, side)
            differ, count = differ + int((difference > 0).sum()), count + difference.size
    assert differ / count < 0.01


def test_padding_puts_the_image_in_the_middle() -> None:
    padded = pad_to_square(Image.new("RGB", (4, 2), (255, 0, 0)))
    assert padded.size == (4, 4)
    assert padded.getpixel((0, 0)) == pixels.PAD_COLOR
    assert padded.getpixel((0, 1)) == (255, 0, 0)


def test_a_strip_is_resized_before_it_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded to a square, 200 x 60,000 would take 10 GB; the pixels are the square's but for its edge."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 40, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), Image.fromarray(noise.transpose(1, 0, 2))):
        whole = square_pixels(image, 56).astype(int)
        monkeypatch.setattr(pixels, "MAX_PIXELS", 599 * 599)
        early = square_pixels(image, 56)
        monkeypatch.undo()
        assert early.shape == whole.shape and np.abs(early - whole).mean() < 2
        assert (early == pixels.PAD_COLOR).all(-1).mean() > 0.9


def test_a_long_strip_costs_little() -> None:
    assert preprocess(Image.new("RGB", (200, 60_000)), 56).shape == (3, 56, 56)
    assert pixels.quick_square_pixels(Image.new("RGB", (60_000, 200)), 56).shape == (56, 56, 3)
