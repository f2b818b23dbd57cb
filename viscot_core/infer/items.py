"""What is asked: an image, its pages, a folder, a glob, a JSONL of questions, or standard input."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from viscot_core.ask import check_question
from viscot_core.errors import DataError, ImageError, UsageError
from viscot_core.files import expanded
from viscot_core.images.formats import NEEDS_FORMATS, image_endings
from viscot_core.images.reading import file_of, page_count

PDF = ".pdf"
EXAMPLE = 'viscot infer IMAGE "What is the total?"'


@dataclass(frozen=True, slots=True, eq=False)
class InferItem:
    """One question about one image file, or about one page of it.

    ``row`` has the keys of its JSONL row; ``source`` is the file's content where it can be read only once.
    ``error`` says why it cannot be asked. ``draw`` says which of equal ones it is, from 0; None: there are no
    others.
    """

    image: Path
    question: str
    page: int | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    source: bytes | None = None
    error: str | None = None
    draw: int | None = None

    @property
    def name(self) -> str:
        """How a person names the image: its path, and the page."""
        return str(self.image) if self.page is None else f"{self.image}, page {self.page}"


@dataclass(frozen=True, slots=True)
class Collected:
    """The items, and what a folder has besides, counted by its kind."""

    items: list[InferItem]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """One sentence about what is left out; empty where nothing is."""
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.skipped.items()))
        return f"Skipped: {kinds}." if kinds else ""


def collect(what: str, question: str | None, *, recursive: bool = False) -> Collected:
    """The items of an image path, ``-``, a folder, a quoted glob, or a JSONL of ``{image, question}``.

    Each page of a PDF or a TIFF is an item, or the ``page`` that a row names. Image paths in a JSONL are
    relative to it; a row without a question gets ``question``. ``recursive`` takes the folders of a folder
    as well.

    Raises:
        UsageError: no question, or nothing matches.
        DataError: a damaged row.
    """
    if not what.strip():
        raise UsageError(f"The image is missing: {EXAMPLE}")
    path = expanded(what)
    if path.suffix == ".jsonl":
        return Collected(_numbered([item for row in _rows(path, question) for item in _with_pages(row)]))
    if question is None:
        raise UsageError(f"A question is missing: {EXAMPLE}")
    question = check_question(question)
    found, skipped = _files(path, what, recursive=recursive)
    return Collected([item for file in found for item in _with_pages(InferItem(file, question))], skipped)


def _numbered(items: Sequence[InferItem]) -> list[InferItem]:
    """With the draws of equal items: a command that continues a file draws as the whole one would have."""
    keys = [(item.image, item.page, item.question) for item in items]
    counts, before = Counter(keys), Counter[tuple[Path, int | None, str]]()
    found = []
    for item, key in zip(items, keys, strict=True):
        found.append(replace(item, draw=before[key]) if counts[key] > 1 else item)
        before[key] += 1
    return found


def _files(path: Path, what: str, *, recursive: bool) -> tuple[list[Path], Counter[str]]:
    if path.is_dir():
        return _in_folder(path, recursive=recursive)
    if path.exists() or not glob.has_magic(what):
        return [path], Counter()
    names = sorted(glob.glob(str(path), recursive=True))
    found = [each for each in map(Path, names) if not each.is_dir() and not _is_shadow(each)]
    if not found:
        raise UsageError(f"No file matches {what}; check the pattern.")
    return found, Counter()


def _in_folder(folder: Path, *, recursive: bool) -> tuple[list[Path], Counter[str]]:
    """The images of a folder in the order of their paths, and what else lies there."""
    wanted, skipped, found = image_endings() | {PDF}, Counter[str](), []
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        ending = path.suffix.lower()
        if path.is_dir():
            if not recursive:
                skipped["folder (--recursive reads it)"] += 1
        elif _is_shadow(path):
            continue
        elif ending in wanted:
            found.append(path)
        elif ending in NEEDS_FORMATS:
            skipped[f"{ending} (needs: pip install 'viscot[formats]')"] += 1
        else:
            skipped[ending or "without an ending"] += 1
    if not found:
        there = f", only {', '.join(sorted(skipped))}" if skipped else ""
        known = ", ".join(sorted(wanted))
        raise UsageError(f"There is no image in {folder}{there}; give a folder with {known}.")
    return found, skipped


def _is_shadow(path: Path) -> bool:
    """``._photo.jpg``: what macOS writes beside a file on foreign disks; no image of its own."""
    return path.name.startswith("._")


def _with_pages(item: InferItem) -> Sequence[InferItem]:
    """The item of each page; a file that cannot be read stays one item, which fails when it is opened."""
    if item.error is not None:
        return [item]
    source = item.source
    try:
        if source is None and (str(item.image) == "-" or _is_stream(item.image)):
            opened, _ = file_of(item.image)
            source = opened.read() if not isinstance(opened, Path) else None
        file, name = file_of(item.image if source is None else source)
        count = page_count(file, name)
    except ImageError:
        count = 1
    pages: Sequence[int | None] = (None,)
    if count > 1 or item.image.suffix.lower() == PDF:
        wanted = item.row.get("page")
        pages = (wanted,) if isinstance(wanted, int) and wanted > 0 else range(1, count + 1)
    return [InferItem(item.image, item.question, page, item.row, source) for page in pages]


def _is_stream(path: Path) -> bool:
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def _rows(path: Path, question: str | None) -> list[InferItem]:
    try:
        # Bytes that are no UTF-8 stay in their row, which fails alone; JSON text may hold other line ends.
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    items = [_row(path, number, line, question) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise DataError(f'{path} has no rows; a row is {{"image": PATH, "question": TEXT}}.')
    return items


def _row(path: Path, number: int, line: str, question: str | None) -> InferItem:
    try:
        row = json.loads(line)
        image, text = str(row["image"]), row.get("question", question)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{path}, line {number}: a row is {{"image": PATH, "question": TEXT}} ({error!r}).'
        ) from error
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{path}, line {number}: the question is missing or empty; write one.")
    others = {key: value for key, value in row.items() if key not in ("image", "question")}
    place = path.parent / expanded(image)
    try:
        return InferItem(place, check_question(text), row=others)
    except UsageError as error:
        return InferItem(place, text, row=others, error=f"{path}, line {number}: {error}")


def names_in(items: Sequence[InferItem]) -> Iterator[str]:
    """A file name for each item without its ending: two items of one name get different ones."""
    taken: set[str] = set()
    for item in items:
        stem = item.image.stem if item.page is None else f"{item.image.stem}-page-{item.page}"
        stem = stem if str(item.image) != "-" else "stdin"
        names = (f"{stem}{end}" for end in ("", *(f"-{n}" for n in range(2, len(items) + 1))))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield name
