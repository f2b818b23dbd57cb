"""The tables that tell about one run."""

from __future__ import annotations

from collections.abc import Sequence

from viscot_core.report.bootstrap import Interval, PairedTest
from viscot_core.report.figures import Answers, Boxes, Stats
from viscot_core.report.names import title
from viscot_core.report.tables import Table, count, interval, number, p_value, percent


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
