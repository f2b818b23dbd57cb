"""What is in annotation files: rows per data set, how large the regions are, what train and bench share."""

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
"""Borders of the histogram of box areas, as shares of the padded square."""

_TOLD = 1000
"""Rows between two reports of progress."""


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
        """Benchmark files are known by their folder, whose rows say ``val`` or nothing."""
        return self.file.parent.name in ("benchmark", "benchmark_det", "refcoco")

    def histogram(self) -> list[int]:
        """Regions per bin of ``EDGES``; larger than the square counts as the square."""
        areas = np.minimum(np.frombuffer(self.areas, np.float32), 1.0) if self.areas else np.empty(0)
        return [int(count) for count in np.histogram(areas, EDGES)[0]]


def kind_of(path: Path) -> type[Row]:
    """Which rows a file holds, by the keys of its first. Raises DataError if it holds none of ours."""
    first = next(iter(raw_rows(path)), None)
    try:
        keys = set(orjson.loads(first.data)) if first else set()
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}: the first row is not valid JSON ({error}); check that it is the right file."
        ) from error
    for mark, kind in (
        ("conversations", Conversation),
        ("bboxs", MetadataRow),
        ("sent_id", RefcocoRow),
        ("expression", DetectionRow),
    ):
        if mark in keys:
            return kind
    raise DataError(
        f"{path} holds no rows that viscot knows; give conversations, metadata or benchmark files."
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
        if stats.rows % _TOLD == 0:
            progress(_TOLD)
        _count(stats, row)
        if length and isinstance(row, Conversation):
            stats.lengths.append(length(row))
    progress(stats.rows % _TOLD)
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
    """The first folder of a row's image stands for the data set it does not name."""
    return names[0].partition("/")[0] if names else "text only"


def _areas(row: Conversation) -> list[float]:
    """Areas of the boxes that the assistant says, where a turn is a box and nothing else."""
    found = [
        parse_box(turn.text) for turn in row.turns if turn.role == "assistant" and turn.text.startswith("[")
    ]
    return [parsed.box.area for parsed in found if parsed.status is not BoxStatus.UNPARSABLE]


@dataclass(frozen=True, slots=True)
class Shared:
    """How many of a benchmark file's ``of`` images a training file names: by path, or by path or name.

    The name sees through the folders of different data sets, where it most likely means the same image:
    RefCOCO's ``COCO_train2014_000000581282.jpg`` is COCO 2017's ``000000581282.jpg``, and GQA's images are
    Visual Genome's.
    """

    training: Path
    benchmark: Path
    same_path: int
    same_name: int
    of: int


def shared_images(all_stats: Sequence[FileStats], prefixes: Sequence[str] = ()) -> list[Shared]:
    """Every pair of a training and a benchmark file that share images.

    ``prefixes`` in front of an image's name do not count (``COCO_train2014_``).
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
            by_name = {path for path, (place, name) in known.items() if places.get(name, set()) - {place}}
            if either := by_path | by_name:
                counts = (len(by_path), len(either), len(bench.images))
                found.append(Shared(train.file, bench.file, *counts))
    return found


def _place_and_name(path: str, prefixes: Sequence[str]) -> tuple[str, str]:
    """``coco/train2014`` and ``000000581282``: what stands for the data set, and the name less its prefix."""
    folder, _, file = path.rpartition("/")
    stem = file.rpartition(".")[0] or file
    bare = next((stem.removeprefix(prefix) for prefix in prefixes if stem.startswith(prefix)), stem)
    return "/".join(folder.split("/")[:2]), bare
