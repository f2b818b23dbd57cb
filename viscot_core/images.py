"""Pictures: open safely, pad to a square, crop, resize and normalise.

Preprocessing equals 2023's CLIP pixels bit for bit: pad to a square with the mean colour, Pillow bicubic
resize to the tower's side, rescale and normalise in float32.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from viscot_core.boxes import Window
from viscot_core.errors import ImageError

PAD_COLOR = (122, 116, 104)
"""CLIP's mean colour in 0..255, rounded down: the colour of the padding."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PIXELS = 178_956_970
"""Largest picture that is decoded: Pillow's own limit; what is larger it takes for a decompression bomb."""
MAX_SIDE = 65_535
"""Longest side that is decoded: JPEG's own limit."""
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, EOFError, struct.error)
"""What Pillow's decoders raise on damaged files."""


@dataclass(frozen=True, slots=True)
class View:
    """What the model looks at: an RGB picture (whole or cropped) and a key that names its content."""

    image: Image.Image
    key: str


def open_image(path: Path | str, *, exif: bool = False) -> Image.Image:
    """Read a picture as RGB.

    ``exif`` applies the orientation tag: right for a user's own picture, wrong for annotated data, whose
    boxes belong to the stored pixels. Of an animation the first frame is read. 16-bit pictures are scaled to
    8 bit.

    Raises:
        ImageError: missing, a directory, empty, damaged, no picture, or larger than ``MAX_PIXELS`` or
            ``MAX_SIDE``.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder; give the path of one picture.")
    if not path.exists():
        raise ImageError(f"There is no picture at {path}; check the path.")
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
    """Decode a picture as RGB from a file or from bytes, as ``open_image`` says.

    Args:
        name: what errors call it.
        max_pixels: the header is read first, and nothing is decoded beyond this (``MAX_PIXELS``).
        formats: Pillow's names of the formats to accept; None for all it knows. Pictures of strangers should
            be held to a few: some decoders (EPS) run other programs.

    Raises:
        ImageError: damaged, no picture of these formats, or too many pixels.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            # Of large pictures the limit below decides, of damaged ones the errors.
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
            f"{name} cannot be read as a picture (damaged or of no known format); copy or convert it again."
        ) from error
    except _DAMAGE as error:
        raise ImageError(
            f"{name} cannot be read as a picture ({_reason(error)}); copy or convert it again."
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
        # Pillow clips at 255 when it converts; of 16 bits the upper eight are the picture.
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        scale = 255.0 / 65535.0 if values.max(initial=0) > 255 else 1.0
        image = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    if image.mode == "RGB":
        image.load()  # convert would copy every pixel
        return image
    return image.convert("RGB")


def view_of(image: Image.Image) -> View:
    """A view keyed by the picture's own pixels, for pictures that come from no file."""
    digest = hashlib.sha256(image.tobytes())
    digest.update(repr(image.size).encode())
    return View(image, digest.hexdigest())


def crop(view: View, window: Window) -> View:
    """The part of ``view`` inside ``window`` (left, top, right, bottom in its pixels)."""
    return View(view.image.crop(window), f"{view.key}###{list(window)}")


def pad_to_square(image: Image.Image) -> Image.Image:
    """The picture in the middle of a square of its longer side, padded with CLIP's mean colour."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def square_pixels(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """``uint8[side, side, 3]``: padded to a square and resized (bicubic) for a tower of ``side`` pixels."""
    square = pad_to_square(_shortened(image, side))
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square)


def _shortened(image: Image.Image, side: int) -> Image.Image:
    """The picture itself, or resized already where its square would be larger than ``MAX_PIXELS``.

    (A screenshot of 1,000 x 60,000 would be padded to 10 GB. Only pixels at the padding's edge differ.)
    """
    longer = max(image.size)
    if longer * longer <= MAX_PIXELS:
        return image
    width, height = (max(1, round(length * side / longer)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def quick_square_pixels(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """``square_pixels`` for training: within 2 of 255 (under 1 % of the values differ), 3 to 5 times faster.

    torch's vectorised resize knows Pillow's antialiased bicubic, with coarser weights. Inference and
    benchmark keep ``square_pixels``, which is exact.
    """
    import torch

    square = pad_to_square(_shortened(image, side))
    if square.size == (side, side):
        return np.asarray(square)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the array is read-only, and only read
        planes = torch.from_numpy(np.asarray(square)).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(planes, size=(side, side), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``uint8[side, side, 3]`` -> ``float32[3, side, side]`` as CLIP reads it."""
    return normalise_all([pixels])[0]


def normalise_all(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """``normalise`` for several pictures of one size: ``float32[n, 3, side, side]``."""
    planes = np.empty((len(pictures), 3, *pictures[0].shape[:2]), np.float32)
    for picture, planes_of_one in zip(pictures, planes, strict=True):
        for channel, plane in enumerate(planes_of_one):
            # Float32, in this order: rounded as transformers' processor rounds, for all 256 values.
            np.divide(picture[..., channel], np.float32(255), out=plane, dtype=np.float32)
            plane -= np.float32(CLIP_MEAN[channel])
            plane /= np.float32(CLIP_STD[channel])
    return planes


def preprocess(image: Image.Image, side: int) -> NDArray[np.float32]:
    """``float32[3, side, side]``: the whole way from an RGB picture to the tower's input."""
    return normalise(square_pixels(image, side))
