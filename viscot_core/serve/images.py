"""Images of a request: read from data URLs, and decoded within limits."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import Image

from viscot_core.boxes.geometry import Size
from viscot_core.errors import ImageError
from viscot_core.images.formats import is_pdf
from viscot_core.images.reading import ImageTooLarge, file_of, image_size, page_count, read_image
from viscot_core.serve.errors import ApiError, bad_request
from viscot_core.serve.settings import Limits

_DATA = re.compile(r"data:(?:image/[a-z0-9.+-]+|application/pdf)?(?:;[a-z0-9=.+-]+)*;base64,", re.IGNORECASE)


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
    """Width and height of an image file in memory, by its header.

    Raises:
        ApiError: 413 for too many pixels, 400 if it is not an image.
    """
    with _as_replies(max_pixels):
        width, height = image_size(*file_of(data))
    if width * height > max_pixels:
        raise _too_many(max_pixels)
    return width, height


def count_pages(data: bytes, *, max_pixels: int) -> int | None:
    """The pages of a PDF, or of a TIFF of several; None for an image without pages.

    Raises:
        ApiError: 413 for too many pixels (``max_pixels`` is what the error names), 400 if it cannot be read.
    """
    with _as_replies(max_pixels):
        file, name = file_of(data)
        count = page_count(file, name)
        return count if count > 1 or is_pdf(file) else None


def decode(data: bytes, *, max_pixels: int, as_seen: bool, page: int | None = None) -> Image.Image:
    """RGB pixels of an image file in memory, or of a ``page`` (from 1) of it, as ``open_image`` reads them.

    Raises:
        ApiError: 413 for too many pixels, 400 if it is not an image of a format that is read.
    """
    with _as_replies(max_pixels):
        return read_image(*file_of(data), as_seen=as_seen, page=page, max_pixels=max_pixels)


@contextmanager
def _as_replies(max_pixels: int) -> Iterator[None]:
    try:
        yield
    except ImageTooLarge as error:
        raise _too_many(max_pixels) from error
    except ImageError as error:
        raise bad_request(str(error), "image_url", "bad_picture") from error


def _too_many(max_pixels: int, what: str = "The image has") -> ApiError:
    return ApiError(
        413,
        f"{what} more than {max_pixels:,} pixels; make it smaller.",
        "too_large",
        param="image_url",
    )
