"""Open images safely: checked by their header, decoded as RGB, turned upright on request."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from viscot_core.errors import ImageError

MAX_PIXELS = 178_956_970
"""Largest image that is decoded: Pillow's own limit; what is larger it takes for a decompression bomb."""
MAX_SIDE = 65_535
"""Longest side that is decoded: JPEG's own limit."""
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, EOFError, struct.error)
"""What Pillow's decoders raise on damaged files."""


def open_image(path: Path | str, *, exif: bool = False) -> Image.Image:
    """Read an image as RGB.

    ``exif`` applies the orientation tag: right for a user's own image, wrong for annotated data, whose
    boxes belong to the stored pixels. Of an animation the first frame is read. 16-bit images are scaled to
    8 bit.

    Raises:
        ImageError: missing, a directory, empty, damaged, no image, or larger than ``MAX_PIXELS`` or
            ``MAX_SIDE``.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder; give the path of one image.")
    if not path.exists():
        raise ImageError(f"There is no image at {path}; check the path.")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes); copy or download it again.")
    return read_image(path, str(path), exif=exif)


def read_image(
    source: Path | BinaryIO,
    name: str,
    *,
    exif: bool = False,
    max_pixels: int | None = None,
    formats: tuple[str, ...] | None = None,
) -> Image.Image:
    """Decode an image as RGB from a file or from bytes, as ``open_image`` says.

    Args:
        name: what errors call it.
        max_pixels: the header is read first, and nothing is decoded beyond this (``MAX_PIXELS``).
        formats: Pillow's names of the formats to accept; None for all it knows. Images of strangers should
            be held to a few: some decoders (EPS) run other programs.

    Raises:
        ImageError: damaged, no image of these formats, or too many pixels.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            # Of large images the limit below decides, of damaged ones the errors.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=formats) as image:
                _check_size(image, name, limit)
                if exif:
                    return _to_rgb(_upright(image))
                return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(name, f"more than {MAX_PIXELS:,} pixels")) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} cannot be read as an image (damaged or of no known format); copy or convert it again."
        ) from error
    except _DAMAGE as error:
        raise ImageError(
            f"{name} cannot be read as an image ({_reason(error)}); copy or convert it again."
        ) from error


def _check_size(image: Image.Image, name: str, limit: int) -> None:
    """Refuse by the header alone, before a pixel is decoded."""
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}); copy or convert it again.")
    if width * height > limit or max(width, height) > MAX_SIDE:
        allowed = f"{limit:,} pixels" if width * height > limit else f"{MAX_SIDE:,} pixels a side"
        raise ImageError(_too_large(name, f"{width} x {height}, more than {allowed}"))


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; damaged EXIF says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE:
        return image


def _too_large(name: str, what: str) -> str:
    return f"{name} is too large to decode safely ({what}); make it smaller first."


def _reason(error: Exception) -> str:
    """One line that says what is wrong; of the system's errors without the path, which stands before it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips at 255 when it converts; of 16 bits the upper eight are the image.
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        scale = 255.0 / 65535.0 if values.max(initial=0) > 255 else 1.0
        image = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    if image.mode == "RGB":
        image.load()  # convert would copy every pixel
        return image
    return image.convert("RGB")
