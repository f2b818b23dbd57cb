"""Tables of words and how they are drawn: plain text, Markdown, LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from viscot_core.report.bootstrap import Interval


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


def draw(tables: Sequence[Table], form: Format) -> str:
    """The tables as text, in one of the formats that draw (TABLE, MARKDOWN, LATEX)."""
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


# -- figures as words


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
