"""Statistics for machines: the JSON other tools read, and CSV with one figure per line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from viscot_core.report.bootstrap import PairedTest
from viscot_core.report.figures import Answers, Boxes, Stats


def to_json(stats: Stats) -> dict[str, Any]:
    """``answers`` and ``boxes`` are the contract other tools read; everything else stands beside them.

    With another split than by data set the groups stand under that name's plural instead of ``datasets``.
    """
    groups = {"dataset": "datasets", "domain": "domains", "box-area": "box_areas"}[stats.by.value]
    judge = stats.run.judge
    return {
        "answers": {
            s: {
                groups: {d: _answers_json(c) for d, c in part.groups.items()},
                "overall": _answers_json(part.overall),
            }
            for s, part in stats.answers.items()
        },
        "boxes": {
            s: {
                groups: {d: _boxes_json(c) for d, c in part.groups.items()},
                "overall": _boxes_json(part.overall),
            }
            for s, part in stats.boxes.items()
        },
        "box_details": {
            s: {
                "acc30": part.overall.accuracy[0.3],
                "acc70": part.overall.accuracy[0.7],
                "acc50_ci95": list(part.overall.ci95) if part.overall.ci95 else None,
                "repaired": part.overall.repaired,
            }
            for s, part in stats.boxes.items()
        },
        "differences": [
            {"first": d.first, "second": d.second, **paired_json(d.test)} for d in stats.differences
        ],
        "by_box": {
            s: {"right": _answers_json(split.right), "wrong": _answers_json(split.wrong)}
            for s, split in stats.by_box.items()
        },
        "failed": stats.failed,
        "judge": asdict(judge) if judge else None,
        "run": str(stats.run.path),
        "notes": stats.notes,
    }


def _answers_json(cell: Answers) -> dict[str, Any]:
    return {"mean": cell.mean, "n": cell.n, "of": cell.of, "ci95": list(cell.ci95) if cell.ci95 else None}


def _boxes_json(cell: Boxes) -> dict[str, Any]:
    return {
        "acc50": cell.acc50,
        "mean_iou": cell.mean_iou,
        "n": cell.n,
        "of": cell.of,
        "unparsable": cell.unparsable,
    }


def paired_json(test: PairedTest) -> dict[str, Any]:
    return {"mean": test.mean, "ci95": list(test.interval), "p": test.p, "n": test.n}


CSV_HEADER = ("run", "part", "strategy", "group", "metric", "value", "low", "high", "n", "of")


def to_csv(many: Sequence[Stats]) -> str:
    """One figure per line with its interval and counts."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for stats in many:
        writer.writerows(_csv_rows(stats))
    return file.getvalue().rstrip("\n")


def _csv_rows(stats: Stats) -> Iterable[tuple[object, ...]]:
    run = stats.run.name
    for strategy, part in stats.answers.items():
        for group, cell in [*part.groups.items(), ("overall", part.overall)]:
            yield (
                run,
                "answers",
                strategy,
                group,
                "mean",
                cell.mean,
                *(cell.ci95 or (None, None)),
                cell.n,
                cell.of,
            )
    for strategy, boxes in stats.boxes.items():
        for group, box in [*boxes.groups.items(), ("overall", boxes.overall)]:
            ends = box.ci95 or (None, None)
            yield run, "boxes", strategy, group, "acc50", box.acc50, *ends, box.n, box.of
            yield run, "boxes", strategy, group, "mean_iou", box.mean_iou, None, None, box.n, box.of
            yield run, "boxes", strategy, group, "repaired", box.repaired, None, None, box.n, box.of
            yield run, "boxes", strategy, group, "unparsable", box.unparsable, None, None, box.n, box.of
    for d in stats.differences:
        test = d.test
        name = f"{d.first} minus {d.second}"
        yield run, "difference", name, "overall", "mean", test.mean, *test.interval, test.n, test.n
        yield run, "difference", name, "overall", "p", test.p, None, None, test.n, test.n
