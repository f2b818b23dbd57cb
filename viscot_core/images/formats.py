"""The formats that are read, whoever sends the file; all others are refused by name.

Pillow knows some fifty formats: some of their decoders start other programs (EPS starts Ghostscript), most
are never reviewed. The list is short on purpose, and is passed to every ``Image.open``.
"""

from __future__ import annotations

import contextlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import Image

_COMMON = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
_MORE = {"HEIF": (".heic", ".heif"), "AVIF": (".avif",), "JPEG2000": (".jp2", ".j2k", ".jpx")}
"""Read with ``viscot[formats]`` only; AVIF and JPEG 2000 are decoded by Pillow itself then."""
_PDF = b"%PDF-"
GIVE_A_PAGE = "give one (page=2 in Python; 'viscot infer' asks about each), or save it as PNG"
"""What to do about a file of several pages."""
NEEDS_FORMATS = frozenset(ending for endings in _MORE.values() for ending in endings)


@cache
def accepted() -> dict[str, tuple[str, ...]]:
    """The formats that are read, by Pillow's names, with their file endings."""
    if find_spec("pi_heif") is None:
        return _COMMON
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False)
    Image.init()
    return _COMMON | {name: endings for name, endings in _MORE.items() if name in Image.OPEN}


def image_endings() -> frozenset[str]:
    """File endings of the formats that are read, in lower case."""
    return frozenset(ending for endings in accepted().values() for ending in endings)


def refusal(source: Path | BinaryIO) -> str:
    """Why a file that ``Image.open`` did not accept is not read: its format by name, where its first bytes
    tell. Only the bytes are compared; no decoder of a refused format runs."""
    found = _format_of(_first_bytes(source))
    if found is None:
        return "cannot be read as an image (damaged or of no known format); copy or convert it again"
    if found == "PDF":
        return f"is a PDF, of which one page is read: {GIVE_A_PAGE}"
    if found in _MORE:
        return f"is a {found} image, which needs: pip install 'viscot[formats]'"
    return f"is a {found} file, which is not read; convert it to PNG or JPEG"


def is_pdf(source: Path | BinaryIO) -> bool:
    """Whether the file begins as a PDF does; False where it cannot be read."""
    try:
        return _first_bytes(source).startswith(_PDF)
    except OSError:
        return False


def _first_bytes(source: Path | BinaryIO) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(32)
    source.seek(0)
    start = source.read(32)
    source.seek(0)
    return start


def _format_of(start: bytes) -> str | None:
    if start.startswith(_PDF):
        return "PDF"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIF" if brand[:2] in (b"he", b"mi") else None
    Image.init()
    for name in Image.ID:
        accept = Image.OPEN[name][1]
        with contextlib.suppress(Exception):  # the test of some plugin on bytes that it did not expect
            if name not in _COMMON and accept is not None and accept(start) is True:
                return name
    return None
