"""``viscot stats RUN...``: the tables of run folders. Only reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console


class Format(StrEnum):
    """Spelled out here as well, so that --help needs no numpy."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


def stats(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders: the --out of 'viscot bench'.")
    ],
    judge: Annotated[
        str | None, typer.Option(help="Whose scores, where several judges scored a run.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
) -> None:
    """Means with 95 % bootstrap intervals, paired differences, boxes.

    Answers are means of the scored items, n of N; the overall figure is the mean of the data sets, as in
    the paper.
    """
    from viscot_core.report import tables
    from viscot_core.report.analysis import analyse
    from viscot_core.report.runs import read_run_folder

    found = [analyse(read_run_folder(run, judge)) for run in runs]
    if format is Format.json:
        whole = {s.run.name: tables.to_json(s) for s in found}
        console.emit({"runs": whole} if len(found) > 1 else next(iter(whole.values())))
    elif format is Format.csv:
        console.out(tables.to_csv(found))
    else:
        drawn = [table for s in found for table in tables.stats_tables(s)]
        console.out(tables.draw(drawn, tables.Format(format.value)))
