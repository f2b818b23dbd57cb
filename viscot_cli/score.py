"""``viscot score RUN --judge J``: let a judge score the answers of a run folder; the same command continues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.score.run import ScoreReport


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the --out of 'viscot bench'.")],
    judge: Annotated[
        str,
        typer.Option(help="exact, anls, vqa, contains or relaxed (offline); openai:MODEL; hf:PATH_OR_NAME."),
    ] = "exact",
) -> None:
    """Score the answers of RUN and append them to RUN/scores.<judge>.jsonl.

    Only what has no score yet is asked. Exit code 3: something is still pending or failed; run it again.
    """
    from viscot_core.errors import PartlyDone
    from viscot_core.score.judges import JudgeOptions, make_judge
    from viscot_core.score.run import score_run

    report = score_run(run, make_judge(judge, JudgeOptions()))
    _show(report)
    if not report.complete:
        raise PartlyDone(f"Some answers of {run} have no score; run the same command again to go on.")


def _show(report: ScoreReport) -> None:
    states = ", ".join(f"{count} {state}" for state, count in report.states.items() if count)
    console.out(f"{report.path}: {report.items} answers: {states or 'none to score'} ({report.new} new)")
    if report.clipped:
        console.out(f"{report.clipped} scores were outside 0..1 and were cut to the nearer end")
    if report.unanswered:
        console.out(
            f"{report.unanswered} predictions failed and have no answer: run 'viscot bench' again for them"
        )
    for reason, count in list(report.reasons.items())[:5]:
        console.out(f"  {count} x {reason}")
