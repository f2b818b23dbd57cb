"""Images of a request: read from data URLs, and decoded within limits."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence

from PIL import Image

from viscot_core.boxes.geometry import Size
from viscot_core.errors import ImageError
from viscot_core.images.reading import read_image
from viscot_core.serve.errors import ApiError, bad_request
from viscot_core.serve.settings import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What clients may send: no format whose decoder runs other programs (EPS) or is rarely reviewed."""

_DATA = re.compile(r"data:(?:image/[a-z0-9.+-]+)?(?:;[a-z0-9=.+-]+)*;base64,", re.IGNORECASE)


def is_data(url: str) -> bool:
    """Whether the URL contains the image itself."""
    return url[:5].lower() == "data:"


def image_of(url: str) -> bytes:
    """The bytes of a data URL.

    Raises:
        ApiError: 400 if it is damaged.
    """
    head = _DATA.match(url)
    if head is None:
        raise bad_request("A data URL has the form data:image/TYPE;base64,DATA.", "image_url", "bad_url")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request("The data URL's base64 is damaged.", "image_url", "bad_url") from error


def count_pixels(files: Sequence[bytes], limits: Limits) -> int:
    """The pixels of all images together, by their headers.

    Raises:
        ApiError: 413 for too many pixels, in one image or together; 400 if one is not an image.
    """
    sizes = [size_of(data, limits.pixels) for data in files]
    total = sum(width * height for width, height in sizes)
    if total > limits.pixels_in_flight:
        raise _too_many(limits.pixels_in_flight, "The images of the request have")
    return total


def size_of(data: bytes, max_pixels: int) -> Size:
    """Width and height of an image file in memory.

    Raises:
        ApiError: 413 for too many pixels, 400 if it is not an image.
    """
    try:
        # Reads the header only: the size is known before any pixel is decoded.
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise _too_many(max_pixels) from error
        raise bad_request(
            f"This is not an image of the types {', '.join(FORMATS)}.", "image_url", "bad_picture"
        ) from error
    if width * height > max_pixels:
        raise _too_many(max_pixels)
    return width, height


def decode(data: bytes, *, max_pixels: int, exif: bool) -> Image.Image:
    """RGB pixels of an image file in memory.

    Raises:
        ApiError: 413 for too many pixels, 400 if it is not an image.
    """
    size_of(data, max_pixels)
    try:
        return read_image(io.BytesIO(data), "The image", exif=exif, max_pixels=max_pixels, formats=FORMATS)
    except ImageError as error:
        raise bad_request("The image is damaged or cut off.", "image_url", "bad_picture") from error


def _too_many(max_pixels: int, what: str = "The image has") -> ApiError:
    return ApiError(
        413,
        f"{what} more than {max_pixels:,} pixels; make it smaller.",
        "too_large",
        param="image_url",
    )
