"""Pictures: every kind opens as RGB or is refused in a sentence; pixels equal the reference's bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core import images
from viscot_core.boxes import Box
from viscot_core.errors import ImageError
from viscot_core.images import View, crop, draw_answer, open_image, pad_to_square, preprocess, view_of


def test_pixels_equal_the_reference_bit_for_bit(golden: Path) -> None:
    expected = json.loads((golden / "preprocess.json").read_text())
    assert len(expected) >= 10
    for name, by_side in expected.items():
        image = open_image(golden / "images" / name)
        for side, digest in by_side.items():
            pixels = np.ascontiguousarray(preprocess(image, int(side)))
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == digest, (name, side)


def test_quick_pixels_stay_within_two_of_255(golden: Path) -> None:
    differ, count = 0, 0
    for name in json.loads((golden / "preprocess.json").read_text()):
        image = open_image(golden / "images" / name)
        for side in (56, 112, 224, 336):
            exact = images.square_pixels(image, side).astype(int)
            quick = images.quick_square_pixels(image, side)
            assert quick.dtype == np.uint8 and quick.shape == (side, side, 3)
            difference = np.abs(quick.astype(int) - exact)
            assert difference.max() <= 2, (name, side)
            differ, count = differ + int((difference > 0).sum()), count + difference.size
    assert differ / count < 0.01


def test_every_golden_picture_has_the_reference_rgb(golden: Path) -> None:
    facts = json.loads((golden / "images/images.json").read_text())["images"]
    for name, row in facts.items():
        image = open_image(golden / "images" / name)
        assert image.mode == "RGB"
        assert list(image.size) == row["size"]
        assert hashlib.sha256(image.tobytes()).hexdigest() == row["rgb_sha256"], name


def test_orientation_is_applied_only_when_asked(golden: Path) -> None:
    stored = open_image(golden / "images/exif6.jpg")
    turned = open_image(golden / "images/exif6.jpg", exif=True)
    assert turned.size == stored.size[::-1]


def test_odd_pictures_open(tmp_path: Path) -> None:
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png")).max() == round(63000 * 255 / 65535 - 0.5)
    frames = [Image.new("P", (9, 7), i) for i in (0, 1)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "moves.gif").size == (9, 7)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut"])
def test_a_picture_that_cannot_be_read_is_one_sentence(kind: str, tmp_path: Path, golden: Path) -> None:
    path = tmp_path / "picture.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "cut":
        path.write_bytes((golden / "images/rgba.png").read_bytes()[:5000])
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_decompression_bomb_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    Image.new("RGB", (10, 10)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="10 x 10 pixels"):
        open_image(tmp_path / "bomb.png")


def test_crops_are_named_by_picture_and_window() -> None:
    view = View(Image.new("RGB", (10, 10)), "a.png")
    part = crop(view, (1, 2, 5, 6))
    assert part.image.size == (4, 4)
    assert part.key == "a.png###[1, 2, 5, 6]"


def test_views_of_equal_pixels_share_a_key() -> None:
    one, two = Image.new("RGB", (4, 2)), Image.new("RGB", (4, 2))
    assert view_of(one).key == view_of(two).key
    assert view_of(one).key != view_of(one.rotate(90, expand=True)).key


def test_padding_puts_the_picture_in_the_middle() -> None:
    padded = pad_to_square(Image.new("RGB", (4, 2), (255, 0, 0)))
    assert padded.size == (4, 4)
    assert padded.getpixel((0, 0)) == images.PAD_COLOR
    assert padded.getpixel((0, 1)) == (255, 0, 0)


def test_a_drawn_answer_shows_picture_crop_and_words() -> None:
    sheet = draw_answer(Image.new("RGB", (64, 48)), Box(0.2, 0.2, 0.6, 0.6), (10, 5, 40, 35), ("Q", "A"))
    assert sheet.height > 420
    assert sheet.width > 420
