"""Open images safely: every image that viscot reads, a file or not, comes through this module.

A format of the list (``formats``), a size that is checked by the header, and one kind of error whatever a
decoder raises.
"""

from __future__ import annotations

import io
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from viscot_core.boxes.geometry import Size
from viscot_core.errors import ImageError, UsageError
from viscot_core.images import pdf
from viscot_core.images.formats import GIVE_A_PAGE, accepted, is_pdf, refusal
from viscot_core.images.rgb import array_to_image, has_deep_colors, to_rgb, warn_of_few_bits

MAX_PIXELS = 178_956_970
"""Largest image that is decoded: Pillow's own limit; what is larger it takes for a decompression bomb."""
# Pillow warns from half of it on, also of crops, and of damaged files: our limit and the errors decide alone.
# For the whole process, because a filter around each call is not kept apart between threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
MAX_SIDE = 65_535
"""Longest side that is decoded: JPEG's own limit."""
MAX_STREAM = 1 << 30
"""Bytes that are read at most from a pipe or a file object."""
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
_EXIF = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_REDUCED = 1
"""Bit of a TIFF frame's ``NewSubfileType``: a smaller copy of another frame, not a page."""
_MOST_PAGES = 10_000

ImageSource = Image.Image | NDArray[Any] | bytes | bytearray | memoryview | BinaryIO | Path | str
"""What an image can be given as; ``-`` is standard input."""


class ImageTooLarge(ImageError):
    """An image has more pixels than are decoded."""


def open_image(source: ImageSource, *, as_seen: bool = False, page: int | None = None) -> Image.Image:
    """An image as 8-bit RGB, from a path, ``-`` (standard input), bytes, a file object, a PIL image or an
    array ``[H, W(, C)]``.

    The same file gives the same pixels whichever way it comes. ``as_seen`` is right for a user's own image:
    turned as its EXIF orientation says (the tag of a PIL image counts as that of a file does), transparency
    on white. Without it, for annotated data, the stored pixels are kept, as the reference reads them: their
    boxes belong to these. Of an animation the first frame is read; of a TIFF or a
    PDF ``page`` (from 1). More than 8 bits are scaled, see ``rgb``.

    Raises:
        ImageError: missing, a folder, a URL, empty, damaged, of a format that is not read, larger than
            ``MAX_PIXELS`` or ``MAX_SIDE``, there is no such ``page``, or ``as_seen`` has several pages and
            ``page`` is None.
        UsageError: ``page`` is no whole number.
    """
    page = None if page is None else _page_number(page)
    if isinstance(source, Image.Image | np.ndarray) and page not in (None, 1):
        raise ImageError(
            "A PIL image or an array has one page; give the path of the file, or its bytes, to choose a page."
        )
    if isinstance(source, Image.Image):
        return _from_pillow(source, as_seen=as_seen)
    if isinstance(source, np.ndarray):
        image = array_to_image(source, "The array")
        _check_size(image.size, "The array", MAX_PIXELS)
        return to_rgb(image, "The array", on_white=as_seen)
    return read_image(*file_of(source), as_seen=as_seen, page=page)


def file_of(source: Path | str | bytes | bytearray | memoryview | IO[bytes]) -> tuple[Path | BinaryIO, str]:
    """The file to decode, and what errors call it; what can be read only once is read into memory.

    Raises:
        ImageError: as ``open_image`` says, of what is no file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _in_memory(bytes(source), "The image")
    if isinstance(source, str | Path):
        return _from_path(source)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return _in_memory(_read(source), name if isinstance(name, str) else "The image")
    raise ImageError(
        "An image is a path, bytes, a binary file, a PIL image or an array (height x width x channels), "
        f"not {type(source).__name__}."
    )


def _from_path(source: Path | str) -> tuple[Path | BinaryIO, str]:
    if str(source) == "-":
        return _in_memory(_read(sys.stdin.buffer), "Standard input")
    if isinstance(source, str) and _URL.match(source):
        raise ImageError(f"{source[:80]} is a URL; download the image and give its path.")
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder; give the path of one image.")
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe such as <(command)
            with path.open("rb") as pipe:
                return _in_memory(_read(pipe), str(path))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ImageError(f"There is no image at {path}; check the path.") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if about.st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes); copy or download it again.")
    return path, str(path)


def _read(file: IO[bytes]) -> bytes:
    data = file.read(MAX_STREAM + 1)
    if not isinstance(data, bytes):
        raise ImageError("The file is open as text; open it with mode 'rb'.")
    if len(data) > MAX_STREAM:
        raise ImageTooLarge(f"The image has more than {MAX_STREAM >> 20} MiB; make it smaller first.")
    return data


def _in_memory(data: bytes, name: str) -> tuple[BinaryIO, str]:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); send an image.")
    return io.BytesIO(data), name


def read_image(
    source: Path | BinaryIO,
    name: str,
    *,
    as_seen: bool = False,
    page: int | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Decode an image as RGB from a file or from bytes, as ``open_image`` says.

    Args:
        name: what errors call it.
        max_pixels: the header is read first, and nothing is decoded beyond this (``MAX_PIXELS``); a page of
            a PDF has at most ``pdf.PAGE_PIXELS``.

    Raises:
        ImageTooLarge: too many pixels.
        ImageError: damaged, of a format that is not read, or of several pages.
    """
    if page is not None and is_pdf(source):
        return pdf.render(source, name, page)
    with _opened(source, name) as image:
        if as_seen or page is not None:
            _turn_to_page(image, page, name)
        _check_size(image.size, name, MAX_PIXELS if max_pixels is None else max_pixels)
        deep = has_deep_colors(image)
        rgb = to_rgb(_upright(image) if as_seen else image, name, on_white=as_seen)
        if deep:
            warn_of_few_bits(rgb, name)
        for key in _EXIF:  # or the image would be turned again where it is passed on
            rgb.info.pop(key, None)
        rgb.getexif().clear()
        return rgb


def image_size(source: Path | BinaryIO, name: str | None = None) -> Size:
    """Width and height of the stored pixels, from the header alone.

    Raises:
        ImageError: as ``read_image``, as far as the header tells.
    """
    with _opened(source, name or str(source)) as image:
        return image.size


def color_mode(source: Path) -> str:
    """Pillow's name of how the stored pixels hold their colors ("RGB", "CMYK"), from the header; as above."""
    with _opened(source, str(source)) as image:
        return image.mode


def page_count(source: Path | BinaryIO, name: str | None = None) -> int:
    """Pages of a PDF, or of a TIFF without its reduced copies; 1 for other formats. Raises ImageError."""
    name = name or str(source)
    if is_pdf(source):
        return pdf.page_count(source, name)
    with _opened(source, name) as image:
        return len(_pages(image, _MOST_PAGES))


@contextmanager
def _opened(source: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """The image of a file, nothing decoded yet; whatever is raised in the block becomes an ``ImageError``."""
    try:
        with Image.open(source, formats=tuple(accepted())) as image:
            yield image
    except ImageError:
        raise
    except Exception as error:  # damaged files make decoders raise what they please
        raise _refused(error, source, name) from error


def _refused(error: Exception, source: Path | BinaryIO, name: str) -> ImageError:
    if isinstance(error, Image.DecompressionBombError):
        return ImageTooLarge(_too_large(name, f"more than {MAX_PIXELS:,} pixels"))
    if isinstance(error, MemoryError):
        return ImageError(f"{name} needs more memory than this machine has; make it smaller first.")
    if isinstance(error, UnidentifiedImageError):
        return ImageError(f"{name} {refusal(source)}.")
    if isinstance(error, FileNotFoundError):
        return ImageError(f"There is no image at {name}; check the path.")
    return ImageError(f"{name} cannot be read as an image ({_reason(error)}); copy or convert it again.")


def _from_pillow(image: Image.Image, *, as_seen: bool) -> Image.Image:
    """As the file it came from; ``image`` itself is not changed."""
    name = str(getattr(image, "filename", "")) or "The image"
    # Not loaded yet, its decoder would run now. Images made in memory have no format.
    if image.format not in (None, "MPO", *accepted()):
        raise ImageError(f"{name} is a {image.format} image, which is not read; convert it to PNG.")
    _check_size(image.size, name, MAX_PIXELS)
    try:
        return to_rgb(_upright(image) if as_seen else image, name, on_white=as_seen)
    except ImageError:
        raise
    except Exception as error:
        raise _refused(error, io.BytesIO(), name) from error


def _check_size(size: Size, name: str, limit: int) -> None:
    """Refuse by the header alone, before a pixel is decoded."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}); copy or convert it again.")
    if width * height > limit or max(width, height) > MAX_SIDE:
        allowed = f"{limit:,} pixels" if width * height > limit else f"{MAX_SIDE:,} pixels a side"
        raise ImageTooLarge(_too_large(name, f"{width} x {height}, more than {allowed}"))


def _pages(image: Image.Image, most: int) -> list[int]:
    """Numbers of the TIFF frames that are pages, ``most`` at most."""
    pages = [0]
    if image.format != "TIFF":
        return pages
    frame = 1
    while len(pages) < most and frame < _MOST_PAGES:
        try:
            image.seek(frame)
        except EOFError:
            break
        if not int(image.tag_v2.get(254, 0)) & _REDUCED:  # type: ignore[attr-defined]
            pages.append(frame)
        frame += 1
    image.seek(0)
    return pages


def _turn_to_page(image: Image.Image, page: int | None, name: str) -> None:
    if page == 1 and image.format != "TIFF":
        return
    # A page that is not there is told with the number of all pages.
    pages = _pages(image, 2 if page is None else page if page > 0 else _MOST_PAGES)
    if page is None and len(pages) > 1:
        raise ImageError(f"{name} has several pages: {GIVE_A_PAGE}.")
    if page is not None:
        if not 1 <= page <= len(pages):
            raise ImageError(f"{name} has no page {page}; it has {len(pages)}.")
        image.seek(pages[page - 1])


def _page_number(page: object) -> int:
    if isinstance(page, bool) or not isinstance(page, int | np.integer):
        raise UsageError(f"A page is a whole number, from 1, not {page!r}.")
    return int(page)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; damaged EXIF says nothing."""
    image.load()  # of some formats the tag stands behind the pixels, and TIFF is turned by Pillow itself
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # noqa: BLE001 - the image itself is whole
        return image
    # Without a turn it would copy every pixel.
    return ImageOps.exif_transpose(image) if turned else image


def _too_large(name: str, what: str) -> str:
    return f"{name} is too large to decode safely ({what}); make it smaller first."


def _reason(error: Exception) -> str:
    """One line that says what is wrong; of the system's errors without the path, which stands before it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
