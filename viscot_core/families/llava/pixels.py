"""An image as CLIP reads it: padded to a square, resized, normalised.

Equal to 2023's CLIP pixels bit for bit: pad to a square with the mean colour, Pillow bicubic resize to the
tower's side, rescale and normalise in float32.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viscot_core.images.reading import MAX_PIXELS

PAD_COLOR = (122, 116, 104)
"""CLIP's mean colour in 0..255, rounded down: the colour of the padding."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def pad_to_square(image: Image.Image) -> Image.Image:
    """The image in the middle of a square of its longer side, padded with CLIP's mean colour."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), PAD_COLOR)
    # The same whole-pixel offset as in boxes/geometry.py: a box and its pixels must agree.
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def square_pixels(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """``uint8[side, side, 3]``: padded to a square and resized (bicubic) for a tower of ``side`` pixels."""
    image = _shortened(image, side)
    width, height = image.size
    if width > height and width != side and image.mode == "RGB":
        # Pillow resizes each row first, then the columns, and rounds in between. A row of padding gives one
        # of padding: only the image's own rows are resized, and no square of the full size is made.
        image = image.resize((side, height), Image.Resampling.BICUBIC)
        square = Image.new("RGB", (side, width), PAD_COLOR)
        square.paste(image, (0, (width - height) // 2))
    else:
        square = pad_to_square(image)
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square)


def square_image(image: Image.Image, side: int) -> Image.Image:
    """``square_pixels`` as an image: a processor that pads and resizes it to ``side`` changes no pixel."""
    return Image.fromarray(square_pixels(image.convert("RGB"), side))


def released_side(name: str) -> int | None:
    """The side in pixels that a released model reads, by its name (deepcs233/VisCoT-7b-336 and siblings)."""
    match = re.search(r"(?:^|/)viscot-\d+b-(224|336)$", name.lower())
    return int(match[1]) if match else None


def _shortened(image: Image.Image, side: int) -> Image.Image:
    """The image itself, or resized already where its square would be larger than ``MAX_PIXELS``.

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
    # A copy, as torch warns of an array that is read-only; filters of warnings are the whole process's.
    planes = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(planes, size=(side, side), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``uint8[side, side, 3]`` -> ``float32[3, side, side]`` as CLIP reads it."""
    return normalise_all([pixels])[0]


def normalise_all(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """``normalise`` for several images of one size: ``float32[n, 3, side, side]``."""
    planes = np.empty((len(images), 3, *images[0].shape[:2]), np.float32)
    for image, planes_of_one in zip(images, planes, strict=True):
        for channel, plane in enumerate(planes_of_one):
            # Float32, in this order: rounded as transformers' processor rounds, for all 256 values.
            np.divide(image[..., channel], np.float32(255), out=plane, dtype=np.float32)
            plane -= np.float32(CLIP_MEAN[channel])
            plane /= np.float32(CLIP_STD[channel])
    return planes


def preprocess(image: Image.Image, side: int) -> NDArray[np.float32]:
    """``float32[3, side, side]``: the whole way from an RGB image to the tower's input."""
    return normalise(square_pixels(image, side))
