"""Statistics as tables: plain text, Markdown, LaTeX, CSV, and the JSON other tools read.

A ``Table`` is words in cells. Formats differ only in how they draw it; CSV is a long list of figures instead
(one per line), because that is what a spreadsheet or a data frame wants.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from viscot_core.report.analysis import Answers, Boxes, Stats
from viscot_core.report.bootstrap import Interval, PairedTest
from viscot_core.report.names import title


class Format(StrEnum):
    """What ``viscot stats --format`` takes."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


@dataclass(frozen=True)
class Table:
    """A titled table of words; the first column is left-aligned, the others right-aligned."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


# -- statistics to tables -------------------------------------------------------------------------------


def stats_tables(stats: Stats, *, detection: bool = False) -> list[Table]:
    """The tables of one run; ``detection`` leaves the answers out and shows more about boxes."""
    tables = []
    if stats.answers and not detection:
        tables.append(_summary(stats))
        tables += _by_group(stats)
        tables += _difference_table([(f"{d.first} minus {d.second}", d.test) for d in stats.differences])
        tables += _conditional_table(stats)
    tables += _box_tables(stats, detection=detection or not stats.answers)
    if tables:
        tables[-1].notes.extend(stats.notes)
    return tables


def _summary(stats: Stats) -> Table:
    judge = stats.run.judge
    rows = []
    for strategy, part in stats.answers.items():
        box = stats.boxes[strategy].overall if strategy in stats.boxes else None
        rows.append(
            (
                strategy,
                number(part.overall.mean),
                interval(part.overall.ci95),
                count(part.overall.n, part.overall.of),
                percent(box.acc50) if box else "",
                number(box.mean_iou) if box else "",
                str(box.repaired) if box else "",
                str(box.unparsable) if box else "",
                str(stats.failed.get(strategy, 0)),
            )
        )
    header = (
        "strategy",
        "answers",
        "95 % interval",
        "n of N",
        "box acc %",
        "mean IoU",
        "repaired",
        "unparsable",
        "failed",
    )
    judged = f"judge {judge.describe()}" if judge else "not scored yet"
    return Table(f"{stats.run.name}: {judged}", header, rows)


def _by_group(stats: Stats) -> list[Table]:
    """Rows are groups, columns strategies, unless there is one group only and the summary said it all."""
    names = list(next(iter(stats.answers.values())).groups)
    if len(names) < 2:
        return []
    strategies = list(stats.answers)
    rows = []
    for name in names:
        cells = [stats.answers[s].groups.get(name) for s in strategies]
        rows.append((title(name), *(_mean_cell(cell) for cell in cells)))
    rows.append(("overall", *(_mean_cell(stats.answers[s].overall) for s in strategies)))
    return [Table(f"Answers by {stats.by.value}", (stats.by.value, *strategies), rows)]


def _mean_cell(cell: Answers | None) -> str:
    """``0.612``, and how many of how many where not all are scored."""
    if cell is None or cell.of == 0:
        return ""
    return number(cell.mean) if cell.n == cell.of else f"{number(cell.mean)} ({cell.n}/{cell.of})"


def _difference_table(rows: Sequence[tuple[str, PairedTest]]) -> list[Table]:
    if not rows:
        return []
    body = [
        (name, f"{test.mean:+.3f}", interval(test.interval, signed=True), p_value(test.p), str(test.n))
        for name, test in rows
    ]
    return [
        Table(
            "Paired differences of answer scores", ("difference", "mean", "95 % interval", "p", "pairs"), body
        )
    ]


def _conditional_table(stats: Stats) -> list[Table]:
    rows = []
    for strategy, split in stats.by_box.items():
        for name, cell in (("right", split.right), ("wrong", split.wrong)):
            if cell.n:
                rows.append((f"{strategy}, box {name}", number(cell.mean), interval(cell.ci95), str(cell.n)))
    if not rows:
        return []
    return [
        Table(
            "Answers after a right box (IoU > 0.5) and after a wrong one",
            ("", "answers", "95 % interval", "n"),
            rows,
        )
    ]


def _box_tables(stats: Stats, *, detection: bool) -> list[Table]:
    tables = []
    for strategy, part in stats.boxes.items():
        many = len(part.groups) > 1
        if not (detection or many):
            continue
        groups = [(title(name), cell) for name, cell in part.groups.items()] if many else []
        rows = [_box_row(name, cell) for name, cell in [*groups, ("overall", part.overall)]]
        header = (
            stats.by.value,
            "acc@0.3",
            "acc@0.5",
            "95 % interval",
            "acc@0.7",
            "mean IoU",
            "repaired",
            "unparsable",
            "n of N",
        )
        name = f"{stats.run.name}: " if detection else ""
        tables.append(Table(f"{name}Boxes of {strategy}, accuracy in %", header, rows))
    return tables


def _box_row(name: str, cell: Boxes) -> tuple[str, ...]:
    scaled = Interval(100 * cell.ci95.low, 100 * cell.ci95.high) if cell.ci95 else None
    return (
        name,
        percent(cell.accuracy[0.3]),
        percent(cell.accuracy[0.5]),
        interval(scaled, digits=1),
        percent(cell.accuracy[0.7]),
        number(cell.mean_iou),
        str(cell.repaired),
        str(cell.unparsable),
        count(cell.n, cell.of),
    )


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def interval(ends: Interval | None, *, digits: int = 3, signed: bool = False) -> str:
    if ends is None:
        return "-"
    sign = "+" if signed else ""
    return f"[{ends.low:{sign}.{digits}f}, {ends.high:{sign}.{digits}f}]"


def count(n: int, of: int) -> str:
    return f"{n} of {of}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# -- drawing --------------------------------------------------------------------------------------------


def draw(tables: Sequence[Table], form: Format) -> str:
    """The tables as text, in one of the formats that draw (TABLE, MARKDOWN, LATEX)."""
    pens = {Format.TABLE: _plain, Format.MARKDOWN: _markdown, Format.LATEX: _latex}
    return "\n\n".join(pens[form](table) for table in tables)


def _plain(table: Table) -> str:
    widths = [max(len(row[i]) for row in [table.header, *table.rows]) for i in range(len(table.header))]
    lines = [table.title, "-" * len(table.title)]
    for row in [table.header, *table.rows]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *table.notes])


def _markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = line(["---", *("---:" for _ in table.header[1:])])
    body = [line(table.header), rule, *(line(row) for row in table.rows)]
    return "\n".join([f"**{table.title}**", "", *body, *(f"\n{note}" for note in table.notes)])


_LATEX_ESCAPES = str.maketrans(
    {c: "\\" + c for c in "&%$#_{}"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": "$<$",
        ">": "$>$",
    }
)


def _latex(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return " & ".join(cell.translate(_LATEX_ESCAPES) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{table.title.translate(_LATEX_ESCAPES)}}}",
            r"\begin{tabular}{l" + "r" * (len(table.header) - 1) + "}",
            r"\hline",
            line(table.header),
            r"\hline",
            *(line(row) for row in table.rows),
            r"\hline",
            r"\end{tabular}",
            *(note.translate(_LATEX_ESCAPES) + r"\par" for note in table.notes),
            r"\end{table}",
        ]
    )


# -- figures for machines -------------------------------------------------------------------------------


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
