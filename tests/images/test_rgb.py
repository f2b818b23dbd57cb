"""One file gives the same pixels whichever way it comes; what no screen shows as such is made 8-bit RGB."""

from __future__ import annotations

import io
import logging
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from viscot_core.errors import ImageError
from viscot_core.images.reading import open_image

WAYS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "bytes": Path.read_bytes,
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file": lambda path: path.open("rb"),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "PIL": Image.open,
}


def pixels(source: Any, **how: Any) -> Any:
    return np.asarray(open_image(source, **how))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind that was read wrongly, or differently by different ways."""
    folder = tmp_path_factory.mktemp("files")
    colors = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (10, 10, 20, 20))
    ramp = np.linspace(0, 1, 2400).reshape(40, 60)
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "turned.jpg": (colors, {"exif": exif, "quality": 95}),
        "turned.png": (colors, {"exif": exif}),
        "turned.webp": (colors, {"exif": exif, "lossless": True}),
        "turned.tif": (colors, {"exif": exif}),
        "clear.png": (clear, {}),
        "clear.webp": (clear, {"lossless": True}),
        "clear.gif": (clear, {}),
        "clear_grey.png": (clear.convert("LA"), {}),
        "deep.png": (Image.fromarray((ramp * 65535).astype(np.uint16)), {}),
        "twelve.png": (Image.fromarray((ramp * 4095).astype(np.uint16)), {}),
        "twelve.tif": (Image.fromarray((ramp * 4095).astype(np.uint16)), {}),
        "float.tif": (Image.fromarray(ramp.astype(np.float32)), {}),
        "whole.tif": (Image.fromarray((ramp * 1e6).astype(np.int32)), {}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in made}


NAMES = (
    *("turned.jpg", "turned.png", "turned.webp", "turned.tif"),
    *("clear.png", "clear.webp", "clear.gif", "clear_grey.png"),
    *("deep.png", "twelve.png", "twelve.tif", "float.tif", "whole.tif"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_gives_the_same_pixels(name: str, files: dict[str, Path]) -> None:
    for as_seen in (True, False):
        wanted = pixels(files[name], as_seen=as_seen)
        for way, source in WAYS.items():
            assert (pixels(source(files[name]), as_seen=as_seen) == wanted).all(), (way, as_seen)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("turned")])
def test_orientation_counts_once(name: str, files: dict[str, Path]) -> None:
    """Of an image that was turned nothing is left to turn, and stored pixels stay stored when passed on."""
    turned = open_image(files[name], as_seen=True)
    assert turned.size == open_image(turned, as_seen=True).size == (40, 60)
    stored = open_image(files[name])
    assert stored.size == open_image(stored, as_seen=True).size
    if not name.endswith("tif"):  # Pillow always turns TIFF, for the reference too
        assert stored.size == (60, 40)
    with Image.open(files[name]) as opened:
        open_image(opened, as_seen=True)
        assert opened.getexif().get(0x0112) in (6, None)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("clear")])
def test_transparency_is_white(name: str, files: dict[str, Path]) -> None:
    """Black words on nothing were all black."""
    seen = pixels(files[name], as_seen=True)
    assert (seen[10:20, 10:20] == 0).all() and (seen[:10] == 255).all() and (seen[20:] == 255).all()
    with Image.open(files[name]) as opened:
        assert (pixels(files[name]) == np.asarray(opened.convert("RGB"))).all()  # as the reference reads it


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("deep.png", None),
        ("twelve.png", "16-bit values up to 4095; 0 is read as black, 4095 as white"),
        ("twelve.tif", "16-bit values up to 4095"),
        ("float.tif", "float values up to 1; 0 is read as black, 1 as white"),
        ("whole.tif", "32-bit values up to 1e\\+06"),
    ],
)
def test_a_ramp_goes_from_black_to_white(
    name: str, note: str | None, files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        seen = pixels(files[name], as_seen=True)
    wanted = np.linspace(0, 255, 2400).reshape(40, 60, 1)
    assert np.abs(seen - wanted).max() < 1.5
    import re

    assert len(caplog.records) == (note is not None) and (note is None or re.search(note, caplog.text))


def test_colors_of_sixteen_bits_that_have_twelve_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pillow keeps their upper 8 bits, so nothing better than a note can be done."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">6H", 0, 900, 4095, 9, 9, 9)))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))
    open_image(tmp_path / "a.png", as_seen=True)
    assert "a.png: 16-bit colours that reach only 15 of 255" in caplog.text


ARRAYS = {
    "grey": (np.full((4, 5), 200, np.uint8), 200),
    "one channel": (np.full((4, 5, 1), 200, np.uint8), 200),
    "colours": (np.full((4, 5, 3), 200, np.uint8), 200),
    "grey and alpha": (np.zeros((4, 5, 2), np.uint8), 255),
    "colours and alpha": (np.zeros((4, 5, 4), np.uint8), 255),
    "true and false": (np.ones((4, 5), bool), 255),
    "0..1": (np.full((4, 5, 3), 0.5), 127),
    "16-bit colours": (np.full((4, 5, 3), 40_000, np.uint16), 155),
    "turned around": (np.full((5, 4, 3), 9, np.uint8).transpose(1, 0, 2), 9),
    "no number": (np.full((4, 5), np.nan, np.float32), 0),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays(kind: str) -> None:
    array, value = ARRAYS[kind]
    seen = pixels(array, as_seen=True)
    assert seen.shape == (4, 5, 3) and (seen == value).all()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((3, 4, 5), np.uint8), "The array is 3 x 4 x 5; an image is height x width"),
        (np.zeros((0, 5), np.uint8), "The array is 0 x 5"),
        (np.zeros(5, np.uint8), "The array is 5"),
        (np.zeros((4, 5), complex), "complex128"),
        (b"", "is empty"),
        (b"no image", "The image cannot be read as an image"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        ("https://example.org/a.jpg", "is a URL; download"),
        ("data:image/png;base64,AAAA", "is a URL"),
        ("s3://bucket/a.png", "is a URL"),
        ("a\0b", "no image at"),
        ("x" * 5000, "cannot be read"),
        (None, "not NoneType"),
        (7, "not int"),
        ([[1, 2]], "not list"),
    ],
)
def test_what_is_no_image_is_one_sentence(source: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        open_image(source)
    assert "\n" not in str(caught.value)


def test_standard_input_and_pipes(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = files["clear.png"].read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert open_image("-").size == (60, 40)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    assert open_image(tmp_path / "pipe").size == (60, 40)
    writer.join()


def test_sixteen_bits_are_scaled_in_strips() -> None:
    """Of a 16-bit image of 9 million pixels numpy holds a few strips, not 8 bytes a pixel (72 MB)."""
    file = io.BytesIO()
    Image.new("I;16", (3000, 3000)).save(file, "PNG", compress_level=1)
    tracemalloc.start()
    assert open_image(file.getvalue()).size == (3000, 3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
