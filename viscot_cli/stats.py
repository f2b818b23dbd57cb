"""``viscot stats RUN...``: the tables of run folders. Only reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_core.report.choices import Average, By, Format, Images

if TYPE_CHECKING:
    from viscot_core.report.scored_run import ScoredRun


def stats(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders, or result files of the reference implementation."
        ),
    ],
    judge: Annotated[
        str | None, typer.Option(help="The judge whose scores to use, if several judges scored a run.")
    ] = None,
    detection: Annotated[
        bool, typer.Option("--detection", help="Only boxes: accuracy at IoU 0.3, 0.5, 0.7 and mean IoU.")
    ] = False,
    by: Annotated[
        By,
        typer.Option(help="Split by data set, domain, size of the annotated box, or category."),
    ] = By.DATASET,
    average: Annotated[
        Average, typer.Option(help="Overall: mean of the data sets, as in the paper, or of all items.")
    ] = Average.DATASETS,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="paper[:MODEL]|published",
            help="Compare with the paper's figures (Tables 3, 4, 5, 7, 8, 9, 10), or show those of later "
            "systems with their protocols.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Paired differences to this run, on the questions in both.")
    ] = None,
    mix_judges: Annotated[
        bool, typer.Option("--mix-judges", help="Allow runs that were scored by different judges.")
    ] = False,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.TABLE,
    out: Annotated[
        Path | None, typer.Option(help="Write an HTML report with a card per item to this file instead.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the images, if not the data root of the run.")
    ] = None,
    images: Annotated[
        Images, typer.Option(help="Embed, link or omit images in the report; auto embeds up to 300.")
    ] = Images.AUTO,
    resamples: Annotated[
        int, typer.Option(min=100, help="Draws of the test of paired differences.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of these draws; the same seed gives the same digits.")] = 0,
    legacy_average: Annotated[
        bool, typer.Option("--legacy-average", help="Print the reference's own tables, with its quirks.")
    ] = False,
) -> None:
    """Means with 95 % intervals, paired differences, boxes.

    Answers are means of the scored items, n of N. Overall is the mean of the data sets, as in the paper;
    a data set without scores is excluded and named. A box is right if IoU > 0.5; an unparsable box is wrong.

    Intervals count images, not questions: questions about one image are not independent. One image has none.

    --legacy-average computes as the reference does, to compare with its old printouts: a data set without
    scores and every failed judge call count as 0, the detection average drops data sets at 0 %, boxes
    without spaces or with words around them are wrong, visual7w is excluded, and "Error format" is one too
    high.
    """
    from viscot_core.report.report_data import ReportOptions, build_report
    from viscot_core.report.stats_types import StatsOptions

    found = [run for path in runs for run in _read(path, judge)]
    if legacy_average:
        from viscot_core.report.reference.printed_tables import reference_tables

        console.out("\n\n".join(reference_tables(run) for run in found))
        return
    options = ReportOptions(
        stats=StatsOptions(by, average, resamples, seed),
        detection=detection,
        compare=compare,
        baseline=_read(baseline, judge)[0] if baseline else None,
        mix_judges=mix_judges,
    )
    report = build_report(found, options)
    if out:
        from viscot_core.report.html import write_report

        write_report(out, report, data=data, images=images)
        console.out(f"{out}: open it in a browser")
    elif format is Format.JSON:
        console.emit(report.to_json())
    else:
        console.out(report.to_text(format))


def _read(path: Path, judge: str | None) -> list[ScoredRun]:
    """A run folder, or results of the reference implementation."""
    from viscot_core.report.scored_run import read_scored_run
    from viscot_core.runs.records import RUN_FILE

    if not (path / RUN_FILE).exists():
        from viscot_core.report.reference.results import is_reference_results, read_reference_results

        if is_reference_results(path):
            return read_reference_results(path)
    return [read_scored_run(path, judge)]
