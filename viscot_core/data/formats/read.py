"""Any file of rows, read into one kind of row; what is wrong with a row comes with its number and field."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Size
from viscot_core.data.annotations import Conversation
from viscot_core.data.formats.boxes import own_boxes, with_objects
from viscot_core.data.formats.containers import first_objects, has_key, is_json, raw_objects
from viscot_core.data.formats.layouts import (
    DATA,
    FILE,
    WEB,
    ReadRow,
    RowError,
    RowLayout,
    layout_of,
    marks,
    read_row,
)
from viscot_core.data.traces.trace import Trace
from viscot_core.errors import DataError, ImageError
from viscot_core.images.reading import image_size
from viscot_core.paths import inside

STORED = "images"
"""Folder of images that stood in the rows themselves."""


@dataclass(frozen=True, slots=True)
class RowFinding:
    """What is wrong with a row: its number from 0, a kind to count by, the field, and a sentence."""

    row: int
    kind: str
    field: str
    says: str

    def __str__(self) -> str:
        where = f", {self.field}" if self.field else ""
        return f"row {self.row}{where}: {self.says}"


@dataclass(slots=True)
class Reader:
    """The rows of ``path`` with boxes in viscot's convention.

    ``images`` is the folder of the rows' paths, ``boxes`` the convention that is declared for the assistant's
    boxes (None: viscot's, or what the layout itself declares). Images that stand in the rows go to
    ``store/images/HASH.ENDING``; without ``store`` only their header is looked at.
    """

    path: Path
    images: Path
    boxes: Codec | None = None
    store: Path | None = None
    prefix: str = ""
    """Stands before the names of stored images: where ``store`` will lie under the folder of images."""
    stored: set[str] = field(default_factory=set)
    """Names of the images that stood in the rows."""
    named: int = 0
    """How many images are paths under ``images``."""
    _sizes: dict[str, Size] = field(default_factory=dict)
    _new: list[Path] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[int, Conversation, Trace | None] | RowFinding]:
        """Each row in order, or what is wrong with it. Raises DataError where the file itself is damaged."""
        for number, raw in raw_objects(self.path):
            try:
                if isinstance(raw, DataError):
                    raise RowError("json", "", str(raw))
                read = read_row(raw, self._keep)
                yield number, self._finished(read), read.trace
            except RowError as error:
                yield RowFinding(number, error.kind, error.field, error.says)

    def _finished(self, read: ReadRow) -> Conversation:
        row = read.row
        if (found := marks(row)) != len(row.image):
            raise RowError("images", "images", f"{found} <image> marks for {len(row.image)} images")
        try:
            names = [name for name, _ in row.views()]
        except DataError as error:  # the text after ### is no box
            raise RowError("image", "images", str(error)) from error
        self.named += sum(name not in self.stored for name in names)
        if read.trace is not None:
            return row  # its model's words are a dialect's own: they are learned as they were said
        if read.objects is not None:
            return with_objects(row, read.objects, self.size_of)
        return own_boxes(row, self.boxes, self.size_of)

    def size_of(self, name: str) -> Size:
        """Pixels of an image of the rows; raises DataError where it cannot be read."""
        if name in self._sizes:
            return self._sizes[name]
        return _size(inside(self.images, name))

    def _keep(self, data: bytes) -> str:
        ending = _ending(data)
        place = f"{STORED}/{hashlib.sha256(data).hexdigest()}.{ending}"
        name = self.prefix + place
        self.stored.add(name)
        if name not in self._sizes:
            try:
                self._sizes[name] = image_size(io.BytesIO(data), "an image inside the row")
            except ImageError as error:
                raise RowError("image", "images", str(error)) from error
            if self.store is not None:
                self._write(self.store / place, data)
        return name

    def _write(self, target: Path, data: bytes) -> None:
        if target.is_file() and target.stat().st_size == len(data):  # its name is its content's
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # By process: two that convert into one folder store the same images.
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        self._new += [partial, target]
        partial.write_bytes(data)
        partial.replace(target)

    def remove_new(self) -> None:
        """Delete the images that this reader wrote to ``store``: no row will name them."""
        for path in self._new:
            path.unlink(missing_ok=True)
        if self.store is not None:
            with suppress(OSError):  # not there, or others use it
                (self.store / STORED).rmdir()


@lru_cache(maxsize=4096)
def _size(path: Path) -> Size:
    return image_size(path)


_STARTS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


def _ending(data: bytes) -> str:
    """A usual ending for a stored image; the content decides how it is read."""
    return next((ending for start, ending in _STARTS.items() if data.startswith(start)), "img")


def layout(path: Path) -> RowLayout:
    """The layout of a file, by its first row. Raises DataError where it has none."""
    first = first_objects(path)
    if not first:
        raise DataError(f"{path} contains no rows; check that it is the right file.")
    if isinstance(first[0], DataError):
        raise DataError(f"{path}: row 0: {first[0]}; correct the row.")
    try:
        return layout_of(first[0])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def is_plain(path: Path) -> bool:
    """Whether training reads the file as it is: JSON in LLaVA's or the messages layout, images as paths.

    A row of ms-swift's ``objects`` or with a ``system`` message beside the others may stand anywhere in the
    file, and training would learn its ``<bbox>`` marks, or without its system message, in silence.
    """
    if not is_json(path):
        return False
    first = first_objects(path)
    if not first or not isinstance(first[0], dict):
        return True  # whatever is wrong with it, the loader says
    try:
        found = layout_of(first[0])
    except DataError:
        return True
    row = first[0]
    images = row.get("images") or row.get("image") or []
    images = images if isinstance(images, list) else [images]
    if not all(isinstance(image, str) and not image.startswith((DATA, FILE, *WEB)) for image in images):
        return False
    paths = found in (RowLayout.LLAVA, RowLayout.MESSAGES) and bool(images or not _shows(row))
    return paths and not has_key(path, "objects", "system")


def _shows(row: dict[str, object]) -> bool:
    """Whether a row without paths has images in its messages."""
    return "image" in str(row.get("messages") or row.get("conversations"))
