"""What a model looks at: an image, whole or cropped, with a key that names its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from viscot_core.boxes.geometry import Size, Window

GREY = (127, 127, 127)
"""The colour of an image that shows nothing."""


@dataclass(frozen=True, slots=True)
class View:
    """What the model looks at: an RGB image (whole or cropped) and a key that names its content."""

    image: Image.Image
    key: str


def view_of(image: Image.Image) -> View:
    """A view keyed by the image's own pixels, for images that come from no file."""
    digest = hashlib.sha256()
    for top in range(0, image.height, 256):  # the bytes of a whole large image would be a second copy of it
        digest.update(image.crop((0, top, image.width, min(image.height, top + 256))).tobytes())
    # The same bytes in another shape are another image.
    digest.update(repr(image.size).encode())
    return View(image, digest.hexdigest())


def grey(size: Size) -> View:
    """An image of ``size`` that shows nothing."""
    return View(Image.new("RGB", size, GREY), f"grey@{size[0]}x{size[1]}")


class _Part(Image.Image):
    """A part of an image that is cut once its pixels are wanted, as Pillow decodes a file.

    Cutting a page takes a millisecond or more: here it is the thread that prepares the pixels that does it,
    and not the one that asks the model.
    """

    _uncut: tuple[Image.Image, Window] | None = None

    def __init__(self, whole: Image.Image, window: Window) -> None:
        super().__init__()
        left, top, right, bottom = window
        self._mode, self._size = whole.mode, (right - left, bottom - top)
        self.info = whole.info.copy()
        self._uncut = (whole, window)

    def load(self) -> Any:
        """Cut, at the first call; two threads that come at once cut the same."""
        if (uncut := self._uncut) is not None:
            whole, window = uncut
            self.im = whole.crop(window).im
            self._uncut = None
        return super().load()


def crop(view: View, window: Window) -> View:
    """The part of ``view`` inside ``window`` (left, top, right, bottom in its pixels)."""
    left, top, right, bottom = window
    # Without pixels, or of colours that are numbers of a table, there is nothing to put off.
    part = _Part if left < right and top < bottom and view.image.mode == "RGB" else Image.Image.crop
    return View(part(view.image, window), f"{view.key}###{list(window)}")


def resized(view: View, resize: Callable[[Size], Size] | None) -> View:
    """``view`` in the size that ``resize`` gives for its own (bicubic); itself where that changes nothing."""
    size = view.image.size
    wanted = size if resize is None else resize(size)
    if wanted == size:
        return view
    return View(view.image.resize(wanted, Image.Resampling.BICUBIC), f"{view.key}@{wanted[0]}x{wanted[1]}")
