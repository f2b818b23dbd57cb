"""Pixels of every kind as 8-bit RGB: transparency, more than 8 bits, floats, arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viscot_core.errors import ImageError

_log = logging.getLogger(__name__)

_STRIP = 1 << 18
"""Pixels that are scaled at once: floats of a whole image would take several times its memory."""
_DARK = 64
"""A 16-bit colour image that stays below this (of 255) probably has fewer bits than its file."""

Range = tuple[float, float]


def to_rgb(image: Image.Image, name: str, *, on_white: bool) -> Image.Image:
    """8-bit RGB; ``image`` itself where it is that already.

    ``on_white`` composites transparent pixels on white, as a viewer shows them; without it their stored
    colours are kept, as the reference reads benchmark and training images. Values of more than 8 bits are
    scaled by the bits (8, 10, ... 16) or the range that the file uses; a note is logged where that is not
    the file's own.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image, name)
    image.load()
    if on_white and image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", rgba.size, (255, 255, 255))
        image.paste(rgba, mask=rgba.getchannel("A"))
    if image.mode != "RGB":  # convert would copy every pixel
        image = image.convert("RGB")
    return image


def has_deep_colors(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet has 16 bits a colour, of which Pillow keeps the upper 8."""
    if image.mode.startswith("I") or image.mode == "F":
        return False
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def warn_of_few_bits(rgb: Image.Image, name: str) -> None:
    """Log a note where such colours are so dark that they probably have 10 or 12 bits: 2 or 4 are left."""
    highest = int(np.max(rgb.getextrema()))
    if highest < _DARK:
        _log.warning("%s: 16-bit colours that reach only %d of 255; scale them to 16 bits.", name, highest)


def _scaled(image: Image.Image, name: str) -> Image.Image:
    """A grey image of 16 or 32 bits, in strips."""
    image.load()
    kind = "float" if image.mode == "F" else "32-bit" if image.mode == "I" else "16-bit"
    ranges = [found for _, strip in _strips(image) if (found := _range(strip)) is not None]
    lowest = min((low for low, _ in ranges), default=0.0)
    used = _used(lowest, max((high for _, high in ranges), default=0.0), kind, name)
    rgb = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        rgb.paste(Image.fromarray(_eight_bits(strip, used)).convert("RGB"), (0, top))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, ``[rows, width]``), each of about ``_STRIP`` pixels."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(image.height, top + rows))))


def array_to_image(array: NDArray[Any], name: str) -> Image.Image:
    """An image of an array ``[H, W]`` or ``[H, W, C]`` with 1 (grey), 2 (grey and alpha), 3 or 4 channels.

    8-bit values are taken as they are, booleans are black and white; all other numbers are scaled as those
    of files are, all channels alike.

    Raises:
        ImageError: another shape, no pixels, or values that are no real numbers.
    """
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 2, 3, 4)) or 0 in shape:
        said = " x ".join(map(str, shape))
        raise ImageError(f"{name} is {said}; an image is height x width (x 1, 2, 3 or 4 channels).")
    if array.dtype.kind not in "buif":
        raise ImageError(f"{name} has values of type {array.dtype}; an image has real numbers.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        bits = array.dtype.itemsize * 8
        kind = "float" if array.dtype.kind == "f" else f"{bits}-bit"
        array = _eight_bits(array, _used(*(_range(array) or (0.0, 0.0)), kind, name))
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if shape[2:] == (1,) else array))


def _range(values: NDArray[Any]) -> Range | None:
    """Lowest and highest of the finite values; None without any."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else None


def _used(lowest: float, highest: float, kind: str, name: str) -> Range:
    """What becomes black and white, with a note where it is not the whole range of the file's numbers.

    Whole numbers are taken to have the fewest of 8, 10, 12, 14 or 16 bits that hold them, floats within 0..1
    to be 0..1. Others go from their lowest value, or 0 where that is lower, to their highest.
    """
    if kind == "float" and lowest >= 0 and highest <= 1:
        low, high = 0.0, 1.0
    elif kind != "float" and lowest >= 0 and highest < 1 << 16:
        bits = max(8, int(highest).bit_length())
        low, high = 0.0, float((1 << bits + bits % 2) - 1)
    else:
        low, high = min(lowest, 0.0), highest
    if not (kind == "16-bit" and high == 65535):
        _log.warning(
            "%s: %s values up to %g; %g is read as black, %g as white", name, kind, highest, low, high
        )
    return low, high


def _eight_bits(values: NDArray[Any], used: Range) -> NDArray[np.uint8]:
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        # A table of all 16-bit values is several times faster than to calculate each pixel.
        return _eight_bits(np.arange(1 << 16, dtype=np.int64), used)[values]
    low, high = used
    scale = 255.0 / (high - low) if high > low else 0.0
    # Where a float is no number it is black.
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.nan_to_num((values.astype(np.float64) - low) * scale, posinf=255.0, neginf=0.0)
    return whole.clip(0, 255).astype(np.uint8)
