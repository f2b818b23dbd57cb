"""Is the data right? Every path the annotations name: present, readable, of the right size, boxes inside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from viscot_core.boxes import Box, Size
from viscot_core.errors import DataError, ImageError
from viscot_core.files import written_whole
from viscot_core.images import open_image
from viscot_core.sources.catalog import Catalog
from viscot_core.sources.named import AnnotationFile, annotation_files, pictures_of, rows_of, standing

FATAL = ("bad row", "missing", "unreadable", "size")
"""Problems that make the data wrong; a box that reaches outside its picture is only told."""
OUTSIDE = "box outside"
_SLACK = 1.0
"""Pixels a box may reach over the border before it is told: published boxes are rounded."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the report: what is wrong with which picture or row."""

    file: str
    kind: str
    path: str
    detail: str


@dataclass(slots=True)
class Checked:
    """What one annotation file says and how much of it is right."""

    file: str
    rows: int = 0
    pictures: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    """Missing pictures per folder."""

    @property
    def right(self) -> bool:
        return not any(self.problems[kind] for kind in FATAL)


@dataclass(slots=True)
class _Picture:
    """What rows say about one picture. Tuples: most of a million pictures have no size and no box."""

    sizes: tuple[Size, ...] = ()
    boxes: tuple[Box, ...] = ()


def check(
    root: Path,
    catalog: Catalog,
    report: Path,
    *,
    groups: Sequence[str] = (),
    decode: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Checked]:
    """Check the annotation files of ``root`` (or ``groups``) and write every problem to ``report`` (JSONL).

    ``decode`` reads every picture to its last pixel instead of its head. Raises UsageError where there is
    nothing to check.
    """
    results = []
    with written_whole(report) as out:
        for file in annotation_files(root, groups):
            checked = Checked(str(file.path.relative_to(root)))
            for problem in _problems(root, catalog, file, checked, decode, workers, progress):
                checked.problems[problem.kind] += 1
                if problem.kind == "missing":
                    checked.folders[problem.path.rpartition("/")[0]] += 1
                facts = {slot: getattr(problem, slot) for slot in Problem.__slots__}
                out.write(json.dumps(facts, ensure_ascii=False) + "\n")
            results.append(checked)
    return results


def _problems(
    root: Path,
    catalog: Catalog,
    file: AnnotationFile,
    checked: Checked,
    decode: bool,
    workers: int,
    progress: Callable[[int], None],
) -> Iterator[Problem]:
    pictures: dict[str, _Picture] = {}
    rows = rows_of(file, skip_bad=1 << 60)
    for row in rows:
        checked.rows += 1
        try:
            for named in list(pictures_of(row)):
                picture = pictures.setdefault(named.path, _Picture())
                if named.size and named.size not in picture.sizes:
                    picture.sizes += (named.size,)
                if named.box and named.box not in picture.boxes:
                    picture.boxes += (named.box,)
        except DataError as error:
            yield Problem(checked.file, "bad row", "", str(error))
    yield from (Problem(checked.file, "bad row", "", bad) for bad in rows.bad)
    checked.pictures = len(pictures)
    judge = partial(_judge, root, catalog, file, decode)
    for (path, _), found in zip(pictures.items(), _mapped(judge, pictures.items(), workers), strict=True):
        progress(1)
        for kind, detail in found:
            yield Problem(checked.file, kind, path, detail)


def _mapped(
    judge: Callable[[tuple[str, _Picture]], list[tuple[str, str]]],
    pictures: Iterable[tuple[str, _Picture]],
    workers: int,
) -> Iterator[list[tuple[str, str]]]:
    if workers <= 1:
        yield from map(judge, pictures)
        return
    with ProcessPoolExecutor(workers) as pool:
        todo = iter(pictures)
        while batch := list(islice(todo, 4096)):  # not all at once: a million tasks would wait in memory
            yield from pool.map(judge, batch, chunksize=64)


def _judge(
    root: Path, catalog: Catalog, file: AnnotationFile, decode: bool, item: tuple[str, _Picture]
) -> list[tuple[str, str]]:
    """What is wrong with one picture: (kind, detail)."""
    path, picture = item
    here = standing(root, path, file, catalog)
    if here is None:
        return [("missing", "there is no such file"), *_outside(picture.boxes, picture.sizes)]
    try:
        size = open_image(here).size if decode else _size_of(here)
    except ImageError as error:
        return [("unreadable", str(error))]
    wrong = [
        ("size", f"the file has {size[0]} x {size[1]} pixels, the row says {said[0]} x {said[1]}")
        for said in sorted({*picture.sizes} - {size})
    ]
    return [*wrong, *_outside(picture.boxes, {size})]


def _size_of(path: Path) -> Size:
    """The picture's size from its head. Raises ImageError where it has none."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path} cannot be read as a picture ({error}); fetch it again.") from error


def _outside(boxes: Iterable[Box], sizes: Iterable[Size]) -> list[tuple[str, str]]:
    return [
        (OUTSIDE, f"{[round(c, 2) for c in box.coords]} in a picture of {width} x {height}")
        for width, height in sizes
        for box in boxes
        if min(box.x0, box.y0) < -_SLACK or box.x1 > width + _SLACK or box.y1 > height + _SLACK
    ]
