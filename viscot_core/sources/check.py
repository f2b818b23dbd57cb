"""Checks a data root: every annotated image exists, is readable and has the right size; boxes are inside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from viscot_core.boxes.geometry import Box, Size
from viscot_core.data.annotations import Conversation
from viscot_core.data.faults import BOX_FORMAT, EMPTY, INVERTED, NO_OVERLAP, SWAPPED, faults, no_overlap
from viscot_core.errors import DataError, ImageError
from viscot_core.files import atomic_write
from viscot_core.images.reading import image_size, open_image
from viscot_core.processes import worker_pool
from viscot_core.sources.annotated import AnnotationFile, annotation_files, images_of, locate_image, rows_of
from viscot_core.sources.catalog import Catalog

FATAL = ("bad row", "missing", "unreadable", "size", BOX_FORMAT)
"""Problems that make the data wrong; the others are only reported."""
OUTSIDE = "box outside"
ODD = (SWAPPED, INVERTED, NO_OVERLAP, EMPTY)
"""What training accepts and learns something wrong from."""
_SLACK = 1.0
"""A box may reach this many pixels over the border without a report: published boxes are rounded."""


@dataclass(frozen=True, slots=True)
class DataProblem:
    """One line of the report: an image or row and what is wrong with it."""

    file: str
    kind: str
    path: str
    detail: str


@dataclass(slots=True)
class Checked:
    """The counts of one annotation file and its problems."""

    file: str
    rows: int = 0
    images: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """The first problem of each kind, in words."""
    folders: Counter[str] = field(default_factory=Counter)
    """Missing images per folder."""

    @property
    def right(self) -> bool:
        return not any(self.problems[kind] for kind in FATAL)


@dataclass(slots=True)
class _Image:
    """What rows say about one image. Tuples save memory: most of a million images have no size and no box."""

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

    ``decode`` reads every image to its last pixel instead of its header. Raises UsageError if there is
    nothing to check.
    """
    results = []
    with atomic_write(report) as out:
        for file in annotation_files(root, groups):
            checked = Checked(str(file.path.relative_to(root)))
            for problem in _problems(root, catalog, file, checked, decode, workers, progress):
                checked.problems[problem.kind] += 1
                checked.first.setdefault(problem.kind, f"{problem.path} {problem.detail}".strip())
                if problem.kind == "missing":
                    checked.folders[problem.path.rpartition("/")[0]] += 1
                facts = {slot: getattr(problem, slot) for slot in DataProblem.__slots__}
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
) -> Iterator[DataProblem]:
    images: dict[str, _Image] = {}
    # Every bad row becomes a line of the report, so none may end the check.
    rows = rows_of(file, skip_bad=1 << 60)
    for row in rows:
        checked.rows += 1
        try:
            for named in list(images_of(row)):
                image = images.setdefault(named.path, _Image())
                if named.size and named.size not in image.sizes:
                    image.sizes += (named.size,)
                if named.box and named.box not in image.boxes:
                    image.boxes += (named.box,)
            if isinstance(row, Conversation):
                for fault in faults(row):
                    yield DataProblem(checked.file, fault.kind, "", f"row {row.id}: {fault.detail}")
        except DataError as error:
            yield DataProblem(checked.file, "bad row", "", str(error))
    yield from (DataProblem(checked.file, "bad row", "", bad) for bad in rows.bad)
    checked.images = len(images)
    judge = partial(_judge, root, catalog, file, decode)
    for (path, _), found in zip(images.items(), _mapped(judge, images.items(), workers), strict=True):
        progress(1)
        for kind, detail in found:
            yield DataProblem(checked.file, kind, path, detail)


def _mapped(
    judge: Callable[[tuple[str, _Image]], list[tuple[str, str]]],
    images: Iterable[tuple[str, _Image]],
    workers: int,
) -> Iterator[list[tuple[str, str]]]:
    if workers <= 1:
        yield from map(judge, images)
        return
    with worker_pool(workers) as pool:
        todo = iter(images)
        while batch := list(islice(todo, 4096)):  # in batches: a million waiting tasks would fill the memory
            yield from pool.map(judge, batch, chunksize=64)


def _judge(
    root: Path, catalog: Catalog, file: AnnotationFile, decode: bool, item: tuple[str, _Image]
) -> list[tuple[str, str]]:
    """What is wrong with one image: (kind, detail)."""
    path, image = item
    try:
        here = locate_image(root, path, file, catalog)
    except DataError as error:
        return [("bad row", str(error))]
    if here is None:
        return [("missing", "there is no such file"), *_outside(image.boxes, image.sizes)]
    try:
        size = open_image(here).size if decode else image_size(here)
    except ImageError as error:
        return [("unreadable", str(error))]
    wrong = [
        ("size", f"the file has {size[0]} x {size[1]} pixels, the row says {said[0]} x {said[1]}")
        for said in sorted({*image.sizes} - {size})
    ]
    return [*wrong, *_outside(image.boxes, {size})]


def _outside(boxes: Iterable[Box], sizes: Iterable[Size]) -> list[tuple[str, str]]:
    return [
        (
            NO_OVERLAP if no_overlap(box, size) else OUTSIDE,
            f"{[round(c, 2) for c in box.coords]} in an image of {size[0]} x {size[1]}",
        )
        for size in sizes
        for box in boxes
        if min(box.x0, box.y0) < -_SLACK or box.x1 > size[0] + _SLACK or box.y1 > size[1] + _SLACK
    ]
