"""The tables of one run, and how a table is printed: plain text, Markdown, LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from viscot_core.report.choices import Average, By, Format
from viscot_core.report.intervals import Interval
from viscot_core.report.names import title
from viscot_core.report.scored_run import EXCLUDED_REASONS
from viscot_core.report.stats_types import Answers, Boxes, Stats


@dataclass(frozen=True)
class Table:
    """A table of texts with a title; the first column is left-aligned, the others right-aligned."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def draw(tables: Sequence[Table], form: Format) -> str:
    """The tables as text: TABLE, MARKDOWN or LATEX."""
    pens = {Format.TABLE: _plain, Format.MARKDOWN: _markdown, Format.LATEX: _latex}
    return "\n\n".join(pens[form](table) for table in tables)


def _plain(table: Table) -> str:
    if not table.rows:
        return "\n".join([table.title, "-" * len(table.title), *table.notes])
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

    if not table.rows:
        return "\n\n".join([f"**{table.title}**", *table.notes])
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

    if not table.rows:
        return "\n".join(note.translate(_LATEX_ESCAPES) + r"\par" for note in table.notes)
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


# -- figures as text


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


def share(n: int, of: int) -> str:
    """``3 (2.5 %)``; a plain ``0`` where there is none."""
    return f"{n} ({100 * n / of:.1f} %)" if n and of else str(n)


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# -- the tables of one run


def stats_tables(stats: Stats, *, detection: bool = False) -> list[Table]:
    """The tables of one run; ``detection`` shows boxes in more detail and no answers."""
    tables = []
    if stats.answers and not detection:
        tables.append(_summary(stats))
        tables += _by_group(stats)
        tables += _difference_table(stats)
        tables += _conditional_table(stats)
    tables += _box_tables(stats, detection=detection or not stats.answers)
    tables += _excluded_table(stats)
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
                share(box.repaired, box.n) if box else "",
                share(box.unparsable, box.n) if box else "",
                count(box.n, box.of) if box else "",
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
        "boxes, n of N",
    )
    judged = f"judge {judge.describe()}" if judge else "not scored yet"
    return Table(f"{stats.run.name}: {judged}", header, rows)


def _by_group(stats: Stats) -> list[Table]:
    """Rows are groups, columns are strategies. A single data set needs no such table: see the summary."""
    names = stats.groups
    if len(names) < 2 and stats.by is By.DATASET:
        return []
    strategies = list(stats.answers)
    rows = [
        (title(name), *_mean_cells([stats.answers[s].groups.get(name) for s in strategies])) for name in names
    ]
    rows.append(("overall", *_mean_cells([stats.answers[s].overall for s in strategies])))
    rows += _common_row(stats, strategies)
    return [Table(f"Answers by {stats.by.value}", (stats.by.value, *strategies, "n of N"), rows)]


def _common_row(stats: Stats, strategies: Sequence[str]) -> list[tuple[str, ...]]:
    """The mean over the data sets that every strategy has a score for, where some have others too."""
    scored = [{g for g, cell in stats.answers[s].groups.items() if cell.n} for s in strategies]
    common = set.intersection(*scored)
    if not common or set.union(*scored) == common:
        return []
    cells = []
    for strategy in strategies:
        found = [stats.answers[strategy].groups[name] for name in common]
        weights = [1 if stats.average is Average.DATASETS else cell.n for cell in found]
        total = sum(w * (cell.mean or 0.0) for w, cell in zip(weights, found, strict=True))
        n, of = sum(cell.n for cell in found), sum(cell.of for cell in found)
        cells.append(Answers(total / sum(weights), n, of, None))
    return [(f"in all strategies ({len(common)})", *_mean_cells(cells))]


def _mean_cells(cells: Sequence[Answers | None]) -> list[str]:
    """Each strategy's mean, then n of N: once if it is the same for all, else with each mean."""
    counts = {(cell.n, cell.of) for cell in cells if cell is not None and cell.of}
    if len(counts) > 1:
        return [f"{number(c.mean)} ({count(c.n, c.of)})" if c and c.of else "" for c in cells] + [""]
    means = [number(cell.mean) if cell and cell.of else "" for cell in cells]
    return [*means, count(*(counts or {(0, 0)}).pop())]


def _difference_table(stats: Stats) -> list[Table]:
    if not stats.differences:
        return []
    body = [
        (
            f"{d.first} minus {d.second}",
            f"{d.test.mean:+.3f}",
            interval(d.test.interval, signed=True),
            p_value(d.test.p),
            str(d.test.n),
            pair_sets(d.datasets, stats.run.datasets),
        )
        for d in stats.differences
    ]
    header = ("difference", "mean", "95 % interval", "p", "pairs", "data sets")
    return [Table("Paired differences of answer scores", header, body)]


def pair_sets(datasets: Sequence[str], planned: set[str]) -> str:
    """Which data sets the pairs are of: their names, unless it is all of them."""
    return f"all {len(planned)}" if set(datasets) == planned else ", ".join(map(title, datasets))


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
        many = len(part.groups) > 1 or stats.by is not By.DATASET
        if not (detection or many):
            continue
        groups = [(title(name), cell) for name, cell in part.groups.items()]
        shown = groups if len(groups) == 1 else [*groups, ("overall", part.overall)]
        rows = [_box_row(name, cell) for name, cell in shown]
        header = (
            stats.by.value,
            "IoU > 0.3",
            "IoU > 0.5",
            "95 % interval",
            "IoU >= 0.5",
            "IoU > 0.7",
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
        percent(cell.at_least_half),
        percent(cell.accuracy[0.7]),
        number(cell.mean_iou),
        share(cell.repaired, cell.n),
        share(cell.unparsable, cell.n),
        count(cell.n, cell.of),
    )


def _excluded_table(stats: Stats) -> list[Table]:
    """No table if every item is in a mean."""
    reasons = [
        reason for reason in EXCLUDED_REASONS if any(reason in found for found in stats.excluded.values())
    ]
    if not reasons:
        return []
    rows = []
    for strategy, found in stats.excluded.items():
        of = sum(n for (name, _), n in stats.run.planned.items() if name == strategy)
        rows.append((strategy, *(share(found.get(reason, 0), of) for reason in reasons), str(of)))
    notes = [f"{reason}: {EXCLUDED_REASONS[reason]}." for reason in reasons]
    return [Table("Items that are in no mean", ("strategy", *reasons, "of N"), rows, notes)]
