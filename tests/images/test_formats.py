"""The list of formats: what is on it is read, the rest is refused by name, and no decoder ends more than its
image."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image, SpiderImagePlugin

from viscot_core.errors import ImageError
from viscot_core.images import formats
from viscot_core.images.reading import image_size, open_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) file\n"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_formats_that_people_have(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "file", name)
    assert open_image(tmp_path / "file").size == image_size(tmp_path / "file") == (9, 7)


@pytest.mark.parametrize("reads", [open_image, image_size])
def test_eps_named_jpg_starts_no_program(
    reads: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    (tmp_path / "a.jpg").write_bytes(EPS)
    with pytest.raises(ImageError, match=r"a.jpg is a EPS file, which is not read; convert it"):
        reads(tmp_path / "a.jpg")  # type: ignore[operator]
    with Image.open(tmp_path / "a.jpg") as opened, pytest.raises(ImageError, match="EPS"):
        open_image(opened)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%PDF-1.7\n", "is a PDF"),
        (b"P6 9 7 255\n", "is a PPM file"),
        (b"8BPS\0\1" + bytes(20), "is a PSD file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no known format"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
    ],
)
def test_refused_by_name(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for source in (tmp_path / "a.png", content):
        with pytest.raises(ImageError, match=words):
            open_image(source)


def test_a_decoder_that_nobody_needs_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file that the SPIDER decoder takes for its own raised an AttributeError."""

    def asked(*_: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'tell'")

    monkeypatch.setattr(SpiderImagePlugin.SpiderImageFile, "_open", asked)
    (tmp_path / "a.jpg").write_bytes(b"\x00\x00\x80\x3f" * 300)
    with pytest.raises(ImageError, match="no known format"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("tell"),
        OverflowError("too large"),
        ZeroDivisionError(),
        MemoryError(),
        RecursionError(),
    ],
)
def test_whatever_a_decoder_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Image.Image) -> None:
        raise error

    file = io.BytesIO()
    Image.new("RGB", (9, 7)).save(file, "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fails)
    with pytest.raises(ImageError, match=r"The image (cannot be read as an image|needs more memory)"):
        open_image(file.getvalue())
    with pytest.raises(ImageError, match=r"The image (cannot be read as an image|needs more memory)"):
        open_image(Image.open(file), as_seen=True)


@pytest.mark.parametrize("name", ["AVIF", "JPEG2000"])
def test_what_an_extra_brings_is_named_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {name}")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, name)
    monkeypatch.setattr("viscot_core.images.reading.accepted", lambda: formats._COMMON)
    with pytest.raises(ImageError, match=rf"{name} image, which needs: pip install 'viscot\[formats\]'"):
        open_image(file.getvalue())


HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAAB4gABAAAAAAAAAJIAAgAAAAACdAABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAA"
    "ABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAAvm1kYXQAAACOKAGvCeAhOTQf//Xnx1/5SJ//a028Le16zf/CqG3/ZmIxcJFTgoIR"
    "awNyvyxngPM0jaoAj9Wf/u7VGdu2EnN91qJgd6RhJJhf9/R41XJg9VDqBttdmnKb7i1lvMIrdKeLcunpIRM8Riyu5D/I+L8vyumo"
    "ogRsEIzSvwKcQnfRvbcgWUG5FChucnINyBbgeAAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA=="
)
"""64 x 48, blue at the left and red at the right, made with libheif."""


@pytest.mark.parametrize("name", ["HEIF", "AVIF", "JPEG2000"])
def test_with_the_extra_they_are_read(name: str) -> None:
    pytest.importorskip("pi_heif")
    formats.accepted()
    file = io.BytesIO(HEIC)
    if name != "HEIF":
        Image.open(file).save(file := io.BytesIO(), name)
    for source in (file.getvalue(), Image.open(file)):
        for as_seen in (True, False):
            image = open_image(source, as_seen=as_seen)
            assert image.size == (64, 48)
            left, right = image.getpixel((5, 24)), image.getpixel((60, 24))
            assert left[2] > 150 > left[0] and right[0] > 150 > right[2]  # type: ignore[index]


def test_heic_is_named_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viscot_core.images.reading.accepted", lambda: formats._COMMON)
    with pytest.raises(ImageError, match=r"HEIF image, which needs: pip install 'viscot\[formats\]'"):
        open_image(HEIC)
