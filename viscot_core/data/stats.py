"""What is in annotation files: rows per data set, how large the regions are, what train and bench share."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from viscot_core.boxes import BoxStatus, parse_box
from viscot_core.data.annotations import (
    Conversation,
    DetectionRow,
    MetadataRow,
    RefcocoRow,
    Row,
    Rows,
    split_crop,
)
from viscot_core.data.convert import picture_path
from viscot_core.data.rows import raw_rows
from viscot_core.errors import DataError

EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Borders of the histogram of box areas, as shares of the padded square."""


@dataclass(slots=True)
class FileStats:
    """Counts of one annotation file. ``areas``: each region's share of the padded square."""

    file: Path
    kind: type[Row]
    rows: int = 0
    data_sets: Counter[str] = field(default_factory=Counter)
    pictures: set[str] = field(default_factory=set)
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
    """Which rows a file holds, by the keys of its first. Raises DataError where it holds none of ours."""
    first = next(iter(raw_rows(path)), None)
    try:
        keys = set(orjson.loads(first.data)) if first else set()
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}: the first row is no JSON ({error}); check that it is the right file."
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
    path: Path, *, length: Callable[[Conversation], int] | None = None, skip_bad: int = 0
) -> FileStats:
    """Read one file once. ``length`` measures conversations in tokens."""
    stats = FileStats(path, kind_of(path))
    rows = Rows(path, stats.kind, skip_bad)
    for row in rows:
        stats.rows += 1
        _count(stats, row)
        if length and isinstance(row, Conversation):
            stats.lengths.append(length(row))
    stats.bad = rows.bad
    return stats


def _count(stats: FileStats, row: Row) -> None:
    if isinstance(row, Conversation):
        names = [split_crop(path)[0] for path in row.image]
        stats.pictures.update(names)
        stats.data_sets[row.dataset or _folder(names)] += 1
        stats.areas.extend(_areas(row))
    elif isinstance(row, MetadataRow):
        stats.pictures.add(picture_path(row))
        stats.data_sets[row.dataset] += 1
        stats.areas.append(row.box.to_square(row.size).area)
    elif isinstance(row, DetectionRow):
        stats.pictures.add(row.img_path)
        stats.data_sets[row.dataset_name if isinstance(row, RefcocoRow) else stats.file.stem] += 1
        stats.areas.append(row.box.to_square(row.size).area)


def _folder(names: Sequence[str]) -> str:
    """The first folder of a row's picture stands for the data set it does not name."""
    return names[0].partition("/")[0] if names else "text only"


def _areas(row: Conversation) -> list[float]:
    """Areas of the boxes that gpt says, where a turn is a box and nothing else."""
    found = [parse_box(turn.text) for turn in row.turns if turn.role == "gpt" and turn.text.startswith("[")]
    return [parsed.box.area for parsed in found if parsed.status is not BoxStatus.UNPARSABLE]


def shared_pictures(all_stats: Sequence[FileStats]) -> list[tuple[Path, Path, int, int]]:
    """(training file, benchmark file, pictures in both, pictures of the latter), where any are shared.

    Pictures are compared by path; two paths for one picture are not seen through.
    """
    pairs = [(a, b) for b in all_stats if b.is_benchmark for a in all_stats if not a.is_benchmark]
    counted = [(a.file, b.file, len(a.pictures & b.pictures), len(b.pictures)) for a, b in pairs]
    return [pair for pair in counted if pair[2]]
