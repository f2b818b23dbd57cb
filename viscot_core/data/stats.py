"""Statistics of annotation files: rows per data set, region sizes, images in training and benchmark."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from viscot_core.boxes.geometry import BoxStatus, parse_box
from viscot_core.data.annotations import (
    Conversation,
    DetectionRow,
    MetadataRow,
    RefcocoRow,
    Row,
    Rows,
    split_crop,
)
from viscot_core.data.convert import image_path
from viscot_core.data.rows import raw_rows
from viscot_core.errors import DataError

EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Bin edges of the histogram of box areas, as shares of the padded square."""

_REPORT_EVERY = 1000
"""Rows between two progress reports."""


@dataclass(slots=True)
class FileStats:
    """Counts of one annotation file. ``areas``: each region's share of the padded square."""

    file: Path
    kind: type[Row]
    rows: int = 0
    data_sets: Counter[str] = field(default_factory=Counter)
    images: set[str] = field(default_factory=set)
    areas: array[float] = field(default_factory=lambda: array("f"))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    bad: list[str] = field(default_factory=list)

    @property
    def is_benchmark(self) -> bool:
        """Whether it is a benchmark file: only the folder tells, as its rows' split is ``val`` or missing."""
        return self.file.parent.name in ("benchmark", "benchmark_det", "refcoco")

    def histogram(self) -> list[int]:
        """Regions per bin of ``EDGES``; a region larger than the square counts as the square."""
        areas = np.minimum(np.frombuffer(self.areas, np.float32), 1.0) if self.areas else np.empty(0)
        return [int(count) for count in np.histogram(areas, EDGES)[0]]


def kind_of(path: Path) -> type[Row]:
    """The type of a file's rows, by the keys of the first row. Raises DataError for unknown rows."""
    first = next(iter(raw_rows(path)), None)
    try:
        keys = set(orjson.loads(first.data)) if first else set()
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}: the first row is not valid JSON ({error}); check that it is the right file."
        ) from error
    # In this order: RefCOCO's rows have an expression too.
    for mark, kind in (
        ("conversations", Conversation),
        ("messages", Conversation),
        ("bboxs", MetadataRow),
        ("sent_id", RefcocoRow),
        ("expression", DetectionRow),
    ):
        if mark in keys:
            return kind
    raise DataError(
        f"{path} contains no rows that viscot knows; give conversations, metadata or benchmark files."
    )


def file_stats(
    path: Path,
    *,
    length: Callable[[Conversation], int] | None = None,
    skip_bad: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> FileStats:
    """Read one file once. ``length`` measures conversations in tokens."""
    stats = FileStats(path, kind_of(path))
    rows = Rows(path, stats.kind, skip_bad)
    for row in rows:
        stats.rows += 1
        if stats.rows % _REPORT_EVERY == 0:
            progress(_REPORT_EVERY)
        _count(stats, row)
        if length and isinstance(row, Conversation):
            stats.lengths.append(length(row))
    progress(stats.rows % _REPORT_EVERY)
    stats.bad = rows.bad
    return stats


def _count(stats: FileStats, row: Row) -> None:
    if isinstance(row, Conversation):
        names = [split_crop(path)[0] for path in row.image]
        stats.images.update(names)
        stats.data_sets[row.dataset or _folder(names)] += 1
        stats.areas.extend(_areas(row))
    elif isinstance(row, MetadataRow):
        stats.images.add(image_path(row))
        stats.data_sets[row.dataset] += 1
        stats.areas.append(row.box.to_square(row.size).area)
    elif isinstance(row, DetectionRow):
        stats.images.add(row.image)
        stats.data_sets[row.dataset_name if isinstance(row, RefcocoRow) else stats.file.stem] += 1
        stats.areas.append(row.box.to_square(row.size).area)


def _folder(names: Sequence[str]) -> str:
    """A row without a data set is counted under the first folder of its image."""
    return names[0].partition("/")[0] if names else "text only"


def _areas(row: Conversation) -> list[float]:
    """Areas of the boxes in assistant turns that consist of a box only."""
    found = [
        parse_box(turn.text) for turn in row.turns if turn.role == "assistant" and turn.text.startswith("[")
    ]
    return [parsed.box.area for parsed in found if parsed.status is not BoxStatus.UNPARSABLE]


@dataclass(frozen=True, slots=True)
class Shared:
    """How many of a benchmark file's ``of`` images a training file contains: by path, and by path or name.

    Equal names in folders of different data sets most likely are the same image: RefCOCO's
    ``COCO_train2014_000000581282.jpg`` is COCO 2017's ``000000581282.jpg``, and GQA's are Visual Genome's.
    """

    training: Path
    benchmark: Path
    same_path: int
    same_name: int
    of: int


def shared_images(all_stats: Sequence[FileStats], prefixes: Sequence[str] = ()) -> list[Shared]:
    """Every pair of a training and a benchmark file that share images.

    ``prefixes`` of an image's name are ignored (``COCO_train2014_``).
    """
    found = []
    for bench in (stats for stats in all_stats if stats.is_benchmark):
        known = {path: _place_and_name(path, prefixes) for path in bench.images}
        names = {name for _, name in known.values()}
        for train in (stats for stats in all_stats if not stats.is_benchmark):
            places: dict[str, set[str]] = defaultdict(set)
            for place, name in (_place_and_name(path, prefixes) for path in train.images):
                if name in names:
                    places[name].add(place)
            by_path = train.images & bench.images
            # Only in another folder: within one, an equal name is the same path, or another image with
            # another ending.
            by_name = {path for path, (place, name) in known.items() if places.get(name, set()) - {place}}
            if either := by_path | by_name:
                counts = (len(by_path), len(either), len(bench.images))
                found.append(Shared(train.file, bench.file, *counts))
    return found


def _place_and_name(path: str, prefixes: Sequence[str]) -> tuple[str, str]:
    """``coco/train2014`` and ``000000581282``: the data set's folder, and the name without its prefix."""
    folder, _, file = path.rpartition("/")
    stem = file.rpartition(".")[0] or file
    bare = next((stem.removeprefix(prefix) for prefix in prefixes if stem.startswith(prefix)), stem)
    return "/".join(folder.split("/")[:2]), bare
