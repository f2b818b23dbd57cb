"""Images: every kind opens as RGB or is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core.errors import ImageError
from viscot_core.images import reading as images
from viscot_core.images.reading import open_image


def test_every_golden_image_has_the_reference_rgb(golden: Path) -> None:
    facts = json.loads((golden / "images/images.json").read_text())["images"]
    for name, row in facts.items():
        image = open_image(golden / "images" / name)
        assert image.mode == "RGB"
        assert list(image.size) == row["size"]
        assert hashlib.sha256(image.tobytes()).hexdigest() == row["rgb_sha256"], name


def test_orientation_is_applied_only_when_asked(golden: Path) -> None:
    stored = open_image(golden / "images/exif6.jpg")
    turned = open_image(golden / "images/exif6.jpg", as_seen=True)
    assert turned.size == stored.size[::-1]


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("damage", [b"", b"garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0"])
def test_damaged_exif_turns_nothing(tmp_path: Path, ending: str, damage: bytes) -> None:
    path = tmp_path / f"image.{ending}"
    Image.new("RGB", (9, 7), (10, 20, 30)).save(path, exif=damage)
    assert open_image(path, as_seen=True).size == (9, 7)


def test_odd_images_open(tmp_path: Path) -> None:
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png")).max() == round(63000 * 255 / 65535 - 0.5)
    frames = [Image.new("P", (9, 7), i) for i in (0, 1)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "moves.gif").size == (9, 7)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut"])
def test_an_image_that_cannot_be_read_is_one_sentence(kind: str, tmp_path: Path, golden: Path) -> None:
    path = tmp_path / "image.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not an image")
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
def test_an_image_without_pixels(kind: str, tmp_path: Path) -> None:
    import struct

    headers = {
        "GIF": b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b"," + bytes(9) + b"\x02\x00;",
        "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0),
        "PPM": b"P6 0 0 255\n",
        "TIFF": b"II*\0" + struct.pack("<IHHHIIHHIII", 8, 2, 256, 3, 1, 0, 257, 3, 1, 0, 0),
    }
    (tmp_path / "none").write_bytes(headers[kind])
    with pytest.raises(ImageError, match=r"none (has no pixels|cannot be read|is a PPM)"):
        open_image(tmp_path / "none")


def test_numbers_of_any_kind_become_eight_bits(tmp_path: Path) -> None:
    for kind, largest in ((np.float32, 255.0), (np.int32, 60_000), (np.uint16, 60_000)):
        Image.fromarray(np.linspace(0, largest, 64).astype(kind).reshape(8, 8)).save(tmp_path / "n.tif")
        read = np.asarray(open_image(tmp_path / "n.tif"))
        assert read.shape == (8, 8, 3) and read.max() >= 230, kind


LARGE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from viscot_core.images import reading as images
from viscot_core.images.reading import open_image
from viscot_core.images.view import crop, view_of
Image.MAX_IMAGE_PIXELS = 1000  # the file has 1,800 pixels
look = lambda _: crop(view_of(open_image(sys.argv[1])), (0, 0, 40, 30)).image.size
print(set(ThreadPoolExecutor(4).map(look, range(64))))
"""


def test_of_large_images_and_crops_our_limit_decides_alone(tmp_path: Path) -> None:
    """Pillow warned on stderr from half of the limit on, of crops always."""
    Image.new("RGB", (60, 30)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{(40, 30)}\n", "")


OVERLAP = """
import sys, warnings
from viscot_core.images.reading import _opened, open_image
before = list(warnings.filters)
others = warnings.catch_warnings()
with _opened(sys.argv[1], "image") as image:
    others.__enter__()  # another thread's
    image.load()
others.__exit__(None, None, None)
open_image(sys.argv[1], as_seen=True)  # Pillow warns of it
print(list(warnings.filters) == before)
"""


def test_reading_sets_no_filters_of_warnings(tmp_path: Path) -> None:
    """They are the process's: with another thread that set its own meanwhile, all stayed silent."""
    Image.new("RGB", (9, 7)).save(tmp_path / "image.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    command = [sys.executable, "-c", OVERLAP, str(tmp_path / "image.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
