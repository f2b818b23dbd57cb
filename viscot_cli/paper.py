"""``viscot paper [TABLE]``: how each table of the paper is made again, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.report.paper import PaperTable

GPUS = (("A100", 8), ("H100", 1))
"""The cards that hours are told for: the paper's, and the one that was measured."""


def paper(
    table: Annotated[int | None, typer.Argument(metavar="[TABLE]", help="The number of a table.")] = None,
    sbatch: Annotated[
        bool, typer.Option("--sbatch", help="Print a SLURM job script instead, for the commands of TABLE.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="With --sbatch: GPUs of the job.")] = 1,
) -> None:
    """How each table of the paper is made again: what to fetch, the commands in order, hours and dollars.

    Without TABLE, all tables. Where the commands of a table were run here, its figures follow, beside the
    published ones. Hours and dollars are estimates.
    """
    from viscot_core.errors import UsageError
    from viscot_core.report.paper import paper_table, paper_tables
    from viscot_core.report.paper import sbatch as script

    if table is None:
        if sbatch:
            raise UsageError("--sbatch needs the number of a table: viscot paper 3 --sbatch")
        rows = [[str(n), each.title, *_costs(each)] for n, each in paper_tables().items()]
        columns = ["table", "figures", *(f"h, {count} x {gpu}" for gpu, count in GPUS), "judge"]
        console.table(columns, rows, right=columns[2:])
        console.say("next: viscot paper TABLE shows the commands")
        return
    steps = paper_table(table)
    if sbatch:
        console.out(script(steps, gpus=gpus).rstrip())
        console.say("next: sbatch THAT_FILE; submitted again, the job continues")
        return
    *hours, dollars = _costs(steps)
    told = [f"{cost} h on {count} x {gpu}" for cost, (gpu, count) in zip(hours, GPUS, strict=True)]
    console.out(f"Table {table}: {steps.title}")
    if steps.tflop:
        console.out(f"estimated: {', '.join(told)}" + (f"; judge {dollars}" if steps.judged else ""))
    for need in steps.needs:
        console.out(f"needs {need}")
    for command in steps.commands:
        console.out(f"  {command}")
    console.say(f"next: run them in this order, or as a SLURM job: viscot paper {table} --sbatch --gpus 8")
    _show_figures(steps)


def _costs(steps: PaperTable) -> list[str]:
    """Hours on each of ``GPUS``, and the judge's price; "-" where it is not known."""
    hours = [steps.hours(gpu, count) for gpu, count in GPUS]
    dollars = "-" if steps.dollars is None else f"~${steps.dollars:.2f}"
    return [*("-" if found is None else f"~{found:.1f}" for found in hours), dollars]


def _show_figures(steps: PaperTable) -> None:
    """The figures of the runs that are here, beside the paper's."""
    from viscot_core.report.choices import Format
    from viscot_core.report.report_data import ReportOptions, build_report
    from viscot_core.report.scored_run import read_scored_run
    from viscot_core.runs.records import RUN_FILE

    for run in steps.runs:
        if (Path(run) / RUN_FILE).exists():
            report = build_report([read_scored_run(Path(run), None)], ReportOptions(compare="paper"))
            console.out("\n" + report.to_text(Format.TABLE))
