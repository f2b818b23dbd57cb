"""``viscot compare A B``: two runs on the same questions, if they were measured alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console
from viscot_core.report.choices import Format


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run folder with scores.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The run folder to subtract.")],
    allow: Annotated[
        str | None, typer.Option(help="Fields of the run card that may differ, like policy,looks.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="The judge or protocol whose scores to use, if there are several.")
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.TABLE,
    resamples: Annotated[int, typer.Option(min=100, help="Draws of the test of differences.")] = 10_000,
) -> None:
    """Paired differences A minus B with intervals and McNemar's test, by strategy and data set.

    Refused where the run cards differ (options shuffled or not, image sizes, policy, looks, judge,
    temperature ...): such scores are not comparable. The message names the fields; --allow lets them differ.
    """
    from viscot_core.errors import UsageError
    from viscot_core.report.benchmarks.paired import compare_pair, paired_json, paired_tables
    from viscot_core.report.scored_run import read_scored_run
    from viscot_core.report.stats_types import StatsOptions
    from viscot_core.report.tables import draw

    if format is Format.CSV:
        raise UsageError("compare prints table, json, markdown or latex; choose one of them.")
    runs = read_scored_run(first, judge), read_scored_run(second, judge)
    allowed = [name.strip() for name in (allow or "").split(",") if name.strip()]
    rows = compare_pair(*runs, StatsOptions(resamples=resamples), allow=allowed)
    if format is Format.JSON:
        console.emit(paired_json(*runs, rows))
    else:
        console.out(draw(paired_tables(*runs, rows), format))
