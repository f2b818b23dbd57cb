"""Pictures: open safely, pad to a square, crop, resize and normalise, draw an answer.

Preprocessing equals 2023's CLIP pixels bit for bit: pad to a square with the mean colour, Pillow bicubic
resize to the tower's side, rescale and normalise in float32.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from viscot_core.boxes import Box, Window
from viscot_core.errors import ImageError

PAD_COLOR = (122, 116, 104)
"""CLIP's mean colour in 0..255, rounded down: the colour of the padding."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PIXELS = 256_000_000
"""Largest picture that is decoded (16,000 x 16,000); beyond it a file is taken for a decompression bomb."""


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
        ImageError: missing, a directory, empty, damaged, no picture, or more than ``MAX_PIXELS`` pixels.
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
            # The limit below is ours and larger than Pillow's, whose warning would only repeat it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source, formats=formats) as image:
                if image.width * image.height > limit:
                    raise ImageError(
                        f"{name} has {image.width} x {image.height} pixels, more than {limit:,}; "
                        "make it smaller before asking about it."
                    )
                if exif:
                    return _to_rgb(ImageOps.exif_transpose(image))
                return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large to decode safely ({error}); make it smaller first.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(
            f"{name} cannot be read as a picture ({error}); copy or convert it again."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 when it converts; the upper eight bits are the picture.
        values = np.asarray(image).astype(np.float64)
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
    square = pad_to_square(image)
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square)


def quick_square_pixels(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """``square_pixels`` for training: within 2 of 255 (under 1 % of the values differ), 3 to 5 times faster.

    torch's vectorised resize knows Pillow's antialiased bicubic, with coarser weights. Inference and
    benchmark keep ``square_pixels``, which is exact.
    """
    import torch

    square = pad_to_square(image)
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


def draw_answer(
    image: Image.Image, box: Box, window: Window, lines: tuple[str, ...], *, height: int = 420
) -> Image.Image:
    """Picture with its box and crop window at the left, the crop at the right, ``lines`` of text below."""
    left = image.copy()
    pen = ImageDraw.Draw(left)
    stroke = max(2, max(image.size) // 200)
    pen.rectangle(window, outline=(255, 255, 255), width=stroke)
    pen.rectangle(box.to_original(image.size).clip(image.size).coords, outline=(220, 30, 30), width=stroke)
    panels = [_at_height(left, height), _at_height(image.crop(window), height)]
    font = ImageFont.load_default(size=20)
    gap, line_height = 12, 28
    width = sum(p.width for p in panels) + gap * 3
    sheet = Image.new("RGB", (width, height + gap * 3 + line_height * len(lines)), (250, 250, 250))
    x = gap
    for panel in panels:
        sheet.paste(panel, (x, gap))
        x += panel.width + gap
    text = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        text.text((gap, height + gap * 2 + number * line_height), line, fill=(20, 20, 20), font=font)
    return sheet


def _at_height(image: Image.Image, height: int) -> Image.Image:
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS)
