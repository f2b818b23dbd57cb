"""Pictures: every kind opens as RGB or is refused in a sentence; pixels equal the reference's bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core import images
from viscot_core.errors import ImageError
from viscot_core.images import View, crop, open_image, pad_to_square, preprocess, square_pixels, view_of


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("damage", [b"", b"garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0"])
def test_damaged_exif_turns_nothing(tmp_path: Path, ending: str, damage: bytes) -> None:
    path = tmp_path / f"picture.{ending}"
    Image.new("RGB", (9, 7), (10, 20, 30)).save(path, exif=damage)
    assert open_image(path, exif=True).size == (9, 7)


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
    with pytest.raises(ImageError, match="10 x 10, more than 99 pixels"):
        open_image(tmp_path / "bomb.png")


def test_a_side_that_is_too_long(tmp_path: Path) -> None:
    Image.new("1", (70_000, 2)).save(tmp_path / "strip.png")
    with pytest.raises(ImageError, match=r"strip.png is too large .*70000 x 2, more than 65,535 "):
        open_image(tmp_path / "strip.png")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "TIFF"])
def test_a_picture_without_pixels(kind: str, tmp_path: Path) -> None:
    import struct

    headers = {
        "GIF": b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b"," + bytes(9) + b"\x02\x00;",
        "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0),
        "PPM": b"P6 0 0 255\n",
        "TIFF": b"II*\0" + struct.pack("<IHHHIIHHIII", 8, 2, 256, 3, 1, 0, 257, 3, 1, 0, 0),
    }
    (tmp_path / "none").write_bytes(headers[kind])
    with pytest.raises(ImageError, match=r"none (has no pixels|cannot be read)"):
        open_image(tmp_path / "none")


def test_numbers_of_any_kind_become_eight_bits(tmp_path: Path) -> None:
    for kind, largest in ((np.float32, 255.0), (np.int32, 60_000), (np.uint16, 60_000)):
        Image.fromarray(np.linspace(0, largest, 64).astype(kind).reshape(8, 8)).save(tmp_path / "n.tif")
        read = np.asarray(open_image(tmp_path / "n.tif"))
        assert read.shape == (8, 8, 3) and read.max() >= 230, kind


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


def test_a_strip_is_resized_before_it_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded to a square, 200 x 60,000 would take 10 GB; the pixels are the square's but for its edge."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 40, 3), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.fromarray(noise.transpose(1, 0, 2))):
        whole = square_pixels(picture, 56).astype(int)
        monkeypatch.setattr(images, "MAX_PIXELS", 599 * 599)
        early = square_pixels(picture, 56)
        monkeypatch.undo()
        assert early.shape == whole.shape and np.abs(early - whole).mean() < 2
        assert (early == images.PAD_COLOR).all(-1).mean() > 0.9


def test_a_long_strip_costs_little() -> None:
    assert preprocess(Image.new("RGB", (200, 60_000)), 56).shape == (3, 56, 56)
    assert images.quick_square_pixels(Image.new("RGB", (60_000, 200)), 56).shape == (56, 56, 3)
