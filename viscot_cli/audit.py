"""``viscot audit RUN``: does looking matter? Replays the run's talks with the crops replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from viscot_cli.bench_options import ServerOptions, batch_size_of
from viscot_cli.bench_report import counted, report
from viscot_cli.grouped import Names, grouped, names_of
from viscot_cli.model_options import MAX_TRUNCATED, MaxTruncated, WhoAnswers


@grouped
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of the strategies cot or zoom.")],
    *,
    who: WhoAnswers,
    by: Annotated[
        Names,
        typer.Option(
            "--replace",
            help="What is shown instead of a crop, one or more of none,blank,noise,random,other,gt,same "
            "[none,blank,random,other].",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the audit [RUN-audit].")] = None,
    strategy: Annotated[Names, typer.Option(help="Which strategies of RUN [all that show crops].")] = None,
    baselines: Annotated[
        bool,
        typer.Option(help="Ask without a look too, where RUN has not done so, and about the crop alone."),
    ] = True,
    samples: Annotated[
        int, typer.Option(min=0, help="Draw so many answers without a look, for mode adaptiveness (5).")
    ] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of --samples.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of noise, random regions and other items.")] = 0,
    batch_size: Annotated[
        str, typer.Option(help="Prompts that run together; auto finds what fits.")
    ] = "auto",
    max_truncated: MaxTruncated = MAX_TRUNCATED,
    server: ServerOptions,
) -> None:
    """Does looking matter? Each answer once more, with what the model saw in its crop replaced.

    What the model said up to its first look is taken from RUN. Then it sees nothing, a grey or noisy image of
    the same size, a random region of the same size, another item's crop, the annotated region (gt), or the
    same crop (same, a check), and goes on. The model must be the one of RUN. The same command again
    continues; 'viscot score' and 'viscot stats' of the folder give the figures.
    """
    from viscot_core.hardware import return_large_blocks
    from viscot_core.runs.audit.audit_task import Audit
    from viscot_core.runs.audit.recorded import Recorded
    from viscot_core.runs.evaluate import evaluate

    return_large_blocks()
    task = Audit(
        Recorded(run, names_of(strategy)),
        names_of(by) or ("none", "blank", "random", "other"),
        seed,
        compares=baselines,
        samples=samples,
        temperature=temperature,
    )
    recorded = task.recorded.info
    who = replace(
        who,
        model=who.model or recorded.model,
        box_format=who.box_format or recorded.settings.get("box_format"),
    )
    out = out or run.with_name(f"{run.name}-audit")
    with counted("audit") as progress:
        engine = who.options(batch_size_of(batch_size), server.options())
        info, tally = evaluate(task, engine, out, progress=progress, sampling=task.recorded.sampling)
    # The answers of a benchmark are read by its own rules.
    judge = "--protocol shuffled" if any(p.benchmark for p in task.recorded.of_audited) else "--judge exact"
    report(out, info, tally, f"viscot score {out} {judge}; viscot stats {out}", max_truncated)
