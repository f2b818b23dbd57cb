"""Statistics for other programs: JSON, and CSV with one figure per line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from viscot_core.report.choices import By
from viscot_core.report.compare import Comparison, RunDifference
from viscot_core.report.intervals import Interval, PairedTest
from viscot_core.report.scored_run import truncated
from viscot_core.report.stats_types import Answers, Boxes, Slice, Stats, T

# -- JSON

_GROUPS = {
    By.DATASET: "datasets",
    By.DOMAIN: "domains",
    By.BOX_AREA: "box_areas",
    By.CATEGORY: "categories",
}


def to_json(stats: Stats) -> dict[str, Any]:
    """The statistics of one run. Other tools read ``answers`` and ``boxes``: their keys never change.

    A split other than by data set replaces ``datasets`` by ``domains``, ``box_areas`` or ``categories``.
    """
    groups = _GROUPS[stats.by]
    judge = stats.run.judge
    return {
        "answers": {
            s: {groups: {d: _answers(c) for d, c in part.groups.items()}, "overall": _answers(part.overall)}
            for s, part in stats.answers.items()
        },
        "boxes": {
            s: {groups: {d: _boxes(c) for d, c in part.groups.items()}, "overall": _boxes(part.overall)}
            for s, part in stats.boxes.items()
        },
        "box_details": {
            s: {
                groups: {d: _box_details(c) for d, c in part.groups.items()},
                "overall": _box_details(part.overall),
            }
            for s, part in stats.boxes.items()
        },
        "differences": [
            {"first": d.first, "second": d.second, **_paired(d.test), "datasets": d.datasets}
            for d in stats.differences
        ],
        "by_box": {
            s: {"right": _answers(split.right), "wrong": _answers(split.wrong)}
            for s, split in stats.by_box.items()
        },
        "left_out": stats.excluded,
        "truncated": {
            name: {"n": cut, "of": of, "share": cut / of} for name, (cut, of) in truncated(stats.run).items()
        },
        "judge": judge.to_row() if judge else None,
        "run": str(stats.run.path),
        "notes": stats.notes,
    }


def _answers(cell: Answers) -> dict[str, Any]:
    return {"mean": cell.mean, "n": cell.n, "of": cell.of, "ci95": list(cell.ci95) if cell.ci95 else None}


def _boxes(cell: Boxes) -> dict[str, Any]:
    return {
        "acc50": cell.acc50,
        "mean_iou": cell.mean_iou,
        "n": cell.n,
        "of": cell.of,
        "unparsable": cell.unparsable,
    }


def _box_details(cell: Boxes) -> dict[str, Any]:
    return {
        "acc30": cell.accuracy[0.3],
        "acc70": cell.accuracy[0.7],
        "at_least_half": cell.at_least_half,
        "acc50_ci95": list(cell.ci95) if cell.ci95 else None,
        "repaired": cell.repaired,
    }


def _paired(test: PairedTest) -> dict[str, Any]:
    return {
        "mean": test.mean,
        "ci95": list(test.interval) if test.interval else None,
        "p": test.p,
        "n": test.n,
    }


def comparison_json(one: Comparison) -> dict[str, Any]:
    """A figure and the paper's."""
    return {
        **asdict(one),
        "ci95": list(one.ci95) if one.ci95 else None,
        "difference": one.difference,
        "excluded": one.excluded,
    }


def difference_json(one: RunDifference) -> dict[str, Any]:
    """One difference to the baseline run."""
    return {"strategy": one.strategy, "metric": one.metric, **_paired(one.test), "datasets": one.datasets}


# -- CSV

Row = tuple[object, ...]
CSV_HEADER = ("run", "part", "strategy", "group", "metric", "value", "low", "high", "n", "of")


def to_csv(rows: Iterable[Row]) -> str:
    """Rows of ``CSV_HEADER`` as text: one figure per line with its interval and counts."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    writer.writerows([_no_formula(cell) for cell in row] for row in rows)
    return file.getvalue().rstrip("\n")


def _no_formula(cell: object) -> object:
    """A quote before a text (a category of a benchmark's file) that a spreadsheet would run as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def stats_rows(stats: Stats) -> Iterator[Row]:
    """All statistics of one run."""
    run = stats.run.name
    for strategy, part in stats.answers.items():
        for group, cell in _cells(part):
            yield run, "answers", strategy, group, "mean", cell.mean, *_ends(cell.ci95), cell.n, cell.of
    for strategy, boxes in stats.boxes.items():
        for group, box in _cells(boxes):
            yield run, "boxes", strategy, group, "acc50", box.acc50, *_ends(box.ci95), box.n, box.of
            for metric, value in _box_metrics(box).items():
                yield run, "boxes", strategy, group, metric, value, None, None, box.n, box.of
    for d in stats.differences:
        yield from _paired_rows(run, "difference", f"{d.first} minus {d.second}", "overall", d.test)
    for strategy, split in stats.by_box.items():
        for group, cell in (("box right", split.right), ("box wrong", split.wrong)):
            yield run, "by box", strategy, group, "mean", cell.mean, *_ends(cell.ci95), cell.n, cell.of
    for strategy, reasons in stats.excluded.items():
        for reason, n in reasons.items():
            yield run, "left out", strategy, reason, "items", n, None, None, None, None


def paper_rows(run: str, found: Sequence[Comparison]) -> Iterator[Row]:
    """Each figure of the run in the paper's unit, followed by the paper's."""
    for c in found:
        names = run, f"paper table {c.table}", c.strategy, c.dataset
        yield *names, f"{c.metric}, yours", c.yours, *_ends(c.ci95), c.n, c.of
        yield *names, f"{c.metric}, {c.model}", c.theirs, None, None, None, None


def baseline_rows(run: str, baseline: str, found: Sequence[RunDifference]) -> Iterator[Row]:
    """Paired differences to the baseline run."""
    for d in found:
        yield from _paired_rows(run, f"minus {baseline}", d.strategy, d.metric, d.test)


def _cells(part: Slice[T]) -> list[tuple[str, T]]:
    return [*part.groups.items(), ("overall", part.overall)]


def _ends(ends: Interval | None) -> tuple[float | None, float | None]:
    return ends or (None, None)


def _box_metrics(box: Boxes) -> dict[str, float | None]:
    return {
        "acc30": box.accuracy[0.3],
        "acc70": box.accuracy[0.7],
        "at_least_half": box.at_least_half,
        "mean_iou": box.mean_iou,
        "repaired": box.repaired,
        "unparsable": box.unparsable,
    }


def _paired_rows(run: str, part: str, strategy: str, group: str, test: PairedTest) -> Iterator[Row]:
    yield run, part, strategy, group, "mean", test.mean, *_ends(test.interval), test.n, test.n
    yield run, part, strategy, group, "p", test.p, None, None, test.n, test.n
