"""Pages of PDF files as images; needs ``viscot[pdf]``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image

from viscot_core.errors import ImageError

DPI = 200
"""Resolution of a page, enough for small print; large pages get less, see ``PAGE_PIXELS``."""
PAGE_PIXELS = 25_000_000
_POINTS = 72
"""Units of a PDF in an inch."""
_lock = Lock()
"""PDFium is not made for threads."""


def page_count(source: Path | BinaryIO, name: str) -> int:
    """Raises ImageError where the file cannot be read."""
    with _opened(source, name) as document:
        return len(document)


def render(source: Path | BinaryIO, name: str, page: int) -> Image.Image:
    """Page ``page`` (from 1) as RGB on white, with what was filled into its forms.

    Raises:
        ImageError: the file or the page cannot be read, or there is no such page.
    """
    with _opened(source, name) as document:
        if not 1 <= page <= len(document):
            raise ImageError(f"{name} has no page {page}; it has {len(document)}.")
        document.init_forms()
        drawn = document[page - 1]
        width, height = drawn.get_size()
        if not (width > 0 and height > 0):
            raise ImageError(f"{name}, page {page} has no area; print it to a new PDF.")
        scale = min(DPI / _POINTS, math.sqrt(PAGE_PIXELS / (width * height)))
        image: Image.Image = drawn.render(scale=scale).to_pil()
        return image.convert("RGB")


@contextmanager
def _opened(source: Path | BinaryIO, name: str) -> Iterator[Any]:
    try:
        import pypdfium2
    except ModuleNotFoundError as error:
        raise ImageError(f"{name} is a PDF, which needs: pip install 'viscot[pdf]'") from error
    with _lock:
        try:
            with pypdfium2.PdfDocument(source) as document:
                yield document
        except ImageError:
            raise
        except Exception as error:  # what a damaged file makes PDFium's wrapper raise is not documented
            if "password" in str(error).lower():
                raise ImageError(f"{name} needs a password; save it without one first.") from error
            raise ImageError(f"{name} cannot be read as a PDF ({error}); print it to a new PDF.") from error
