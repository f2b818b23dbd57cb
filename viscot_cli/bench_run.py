"""``viscot bench run``: visual search benchmarks, several in one run folder, scored at once."""

from __future__ import annotations

from typing import Annotated

import typer

from viscot_cli.bench_options import AttentionLayer, Running, ServerOptions, strategies_of
from viscot_cli.bench_report import counted, report
from viscot_cli.grouped import Names, grouped, names_of
from viscot_cli.model_options import WhoAnswers
from viscot_cli.zoom_options import POLICIES, STRATEGY_OF, ZoomOptions


@grouped
def run(
    benchmarks: Annotated[
        str,
        typer.Argument(
            metavar="NAME,...",
            help="Of vstar,hrbench4k,hrbench8k,treebench,visualprobe,zoombench,mme-realworld-lite.",
        ),
    ],
    *,
    who: WhoAnswers,
    strategy: Annotated[
        Names,
        typer.Option(
            help="One or more of direct,cot,gt-box,random-box,center-box,zoom,full,tiles,tree,"
            "attention,attention-gradient,duplicate,blank; --policy takes several too [direct]."
        ),
    ] = None,
    attention_layer: AttentionLayer = None,
    zoom: ZoomOptions,
    order: Annotated[
        str, typer.Option(help="Of the options: shuffled (by --seed, question, repeat), or as in the file.")
    ] = "shuffled",
    repeats: Annotated[int, typer.Option(min=1, help="How often each question is asked.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    running: Running,
    server: ServerOptions,
) -> None:
    """Benchmarks of small details in large images: V*, HR-Bench, TreeBench, VisualProbe and others.

    Each benchmark lies in DATA/bench/NAME in its own file format; 'viscot data synth --kind vstar' makes a
    small one. The answers are scored by viscot's own rule; 'viscot score --protocol' scores them by another.
    """
    from viscot_core.engines.base import Sampling
    from viscot_core.errors import UsageError
    from viscot_core.runs.evaluate import evaluate
    from viscot_core.runs.records import PREDICTIONS_FILE
    from viscot_core.score.protocols import DEFAULT, ProtocolJudge
    from viscot_core.score.scoring import score_run
    from viscot_core.tasks.benchmarks.task import Benchmarks

    if running.export:
        raise UsageError("The reference has none of these benchmarks; leave out --export.")
    given, zoom = several_policies(names_of(strategy), zoom)
    engine = running.engine(who, server)
    strategies, loop = strategies_of(given, zoom, engine, "direct")
    task = Benchmarks(
        running.data,
        names_of([benchmarks]),
        strategies,
        order,
        repeats,
        running.selection(),
        running.max_new_tokens,
        loop,
        attention_layer,
    )
    out = running.folder(who, "bench")
    sampling = Sampling(temperature, seed=running.seed) if temperature else None
    with counted("bench run") as progress:
        info, tally = evaluate(task, engine, out, gpus=running.gpus, progress=progress, sampling=sampling)
    if (out / PREDICTIONS_FILE).exists():  # without a reply of the server there is none: `report` says why
        score_run(out, ProtocolJudge(DEFAULT))
    report(out, info, tally, f"viscot stats {out} --judge {DEFAULT}", running.max_truncated)


def several_policies(given: tuple[str, ...], zoom: ZoomOptions) -> tuple[tuple[str, ...], ZoomOptions]:
    """``--policy direct,zoom`` as the strategies of these names.

    Raises:
        UsageError: ``--strategy`` names others.
    """
    from dataclasses import replace

    from viscot_core.errors import UsageError

    if zoom.policy is None or zoom.policy in POLICIES:
        return given, zoom
    named = tuple(STRATEGY_OF.get(name, name) for name in names_of([zoom.policy]))
    if given and set(given) != set(named):
        raise UsageError(
            f"--policy {zoom.policy} and --strategy {','.join(given)} disagree; give one of them."
        )
    return named, replace(zoom, policy=None)
