"""``viscot bench``: run a benchmark into a run folder; the same command again continues it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import bench_run, bench_tools
from viscot_cli.bench_options import (
    AttentionLayer,
    BatchSize,
    Out,
    Running,
    ServerOptions,
    SkipMissing,
    default_out,
    policy_of,
    strategies_of,
)
from viscot_cli.bench_report import counted, export_if_asked, report, show_figures
from viscot_cli.grouped import Names, grouped, names_of
from viscot_cli.help import Commands
from viscot_cli.model_options import MAX_TRUNCATED, MaxNew, MaxTruncated, Protocol, WhoAnswers
from viscot_cli.zoom_options import ZoomOptions

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="Run a benchmark into a run folder; the same command again continues it.",
)


@app.command("cot")
@grouped
def cot(
    *,
    who: WhoAnswers,
    strategy: Annotated[
        Names,
        typer.Option(
            help="One or more of cot,direct,gt-box,random-box,center-box,no-image,zoom,full,tiles,tree,"
            "attention,attention-gradient,duplicate,blank [cot]."
        ),
    ] = None,
    tasks: Annotated[Names, typer.Option(help="Data sets, comma-separated [those of --suite].")] = None,
    suite: Annotated[str | None, typer.Option(help="paper (12 data sets), scripts (11) or all (13).")] = None,
    crop_policy: Annotated[str, typer.Option(help="paper, tight, expanded or centered (Table 5).")] = "paper",
    protocol: Protocol = "paper",
    attention_layer: AttentionLayer = None,
    zoom: ZoomOptions,
    running: Running,
    server: ServerOptions,
) -> None:
    """The Visual CoT benchmark: does the model look at the right region, and does that improve its answer?"""
    from viscot_core.runs.evaluate import evaluate
    from viscot_core.tasks.visual_cot.task import VisualCot

    running.check()
    engine = running.engine(who, server)
    strategies, loop = strategies_of(names_of(strategy), zoom, engine, "cot")
    task = VisualCot(
        running.data,
        strategies,
        suite=suite,
        tasks=names_of(tasks),
        select=running.selection(),
        crop_policy=policy_of(crop_policy),
        protocol=protocol,
        max_new_tokens=running.max_new_tokens,
        zoom=loop,
        attention_layer=attention_layer,
    )
    out = running.folder(who, "cot")
    with counted("bench cot") as progress:
        info, tally = evaluate(task, engine, out, gpus=running.gpus, progress=progress)
    report(out, info, tally, f"viscot score {out} --judge exact; viscot stats {out}", running.max_truncated)
    export_if_asked(running.export, out)


@app.command("refcoco")
@grouped
def refcoco(
    *,
    who: WhoAnswers,
    splits: Annotated[
        Names, typer.Option(help="Comma-separated, like refcoco:testA,refcoco+:val [all in --data].")
    ] = None,
    protocol: Protocol = "paper",
    running: Running,
    server: ServerOptions,
) -> None:
    """Referring expressions: the box of what a sentence describes (RefCOCO, RefCOCO+, RefCOCOg)."""
    from viscot_core.runs.evaluate import evaluate
    from viscot_core.tasks.refcoco import RefCoco

    running.check()
    task = RefCoco(
        running.data, names_of(splits), running.selection(), running.max_new_tokens, protocol=protocol
    )
    out, engine = running.folder(who, "refcoco"), running.engine(who, server)
    with counted("bench refcoco") as progress:
        info, tally = evaluate(task, engine, out, gpus=running.gpus, progress=progress)
    report(out, info, tally, f"viscot stats {out}", running.max_truncated)
    export_if_asked(running.export, out)


@app.command("general")
@grouped
def general(
    *,
    who: WhoAnswers,
    tasks: Annotated[list[str], typer.Option(help="Tasks of lmms-eval, like pope,gqa,textvqa_val.")],
    out: Out = None,
    strategy: Annotated[
        Names, typer.Option(help="direct, cot or both; cot needs --backend viscot [direct].")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Who answers: llava_hf, vllm or viscot [llava_hf; viscot for cot].")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data root, for the tasks visual_cot and visual_cot_chain.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N questions of each task.")] = None,
    batch_size: BatchSize = 16,
) -> None:
    """General benchmarks (POPE, GQA, TextVQA, ScienceQA, MME, MMBench ...) through lmms-eval; paper Table 8.

    lmms-eval fetches the data and scores; viscot exports the model, starts it task by task and takes over
    figures and answers. Its tasks visual_cot and visual_cot_chain are the Visual CoT benchmark. Of its
    backends llava_hf asks one question at a time, whatever --batch-size says.
    """
    import sys

    from viscot_core.lmms_eval.command import GeneralOptions
    from viscot_core.lmms_eval.general import bench_general
    from viscot_core.score.lmms import import_scores

    options = GeneralOptions(
        out=out or default_out(who.model, "general"),
        tasks=names_of(tasks),
        engine=who.options(batch_size),
        strategies=names_of(strategy) or ("direct",),
        backend=backend,
        data=data,
        limit=limit,
        python=who.python or sys.executable,
    )
    with ExitStack() as bars:
        shown: dict[str, Callable[[int, int], None]] = {}

        def progress(task: str, done: int, total: int) -> None:
            if task not in shown:
                shown[task] = bars.enter_context(counted(task))
            shown[task](done, total)

        info, tally = bench_general(options, progress)
    import_scores(options.out)
    show_figures(info)
    report(options.out, info, tally, f"viscot stats {options.out} --compare paper")


@app.command("vqa")
@grouped
def vqa(
    *,
    who: WhoAnswers,
    questions: Annotated[
        Path, typer.Option(help="JSONL or JSON of {question_id, image, text[, answer][, category]}.")
    ],
    images: Annotated[Path, typer.Option(help="The folder of the images that the rows name.")],
    out: Out = None,
    style: Annotated[
        str, typer.Option(help="The form of the answer and how it is scored: short, letter, yes-no or free.")
    ] = "short",
    strategy: Annotated[
        Names,
        typer.Option(
            help="One or more of direct,cot,zoom,full,tiles,tree,attention,"
            "attention-gradient,duplicate,blank [direct]."
        ),
    ] = None,
    attention_layer: AttentionLayer = None,
    zoom: ZoomOptions,
    skip_missing: SkipMissing = False,
    batch_size: BatchSize = 16,
    max_new_tokens: MaxNew = 128,
    max_truncated: MaxTruncated = MAX_TRUNCATED,
    server: ServerOptions,
) -> None:
    """Your own questions in LLaVA's format, asked with LLaVA's prompts, scored where answers are given.

    short adds "using a single word or phrase" and scores as VQAv2 and TextVQA; letter asks for the option's
    letter (ScienceQA); yes-no scores as POPE; free adds nothing and leaves the scores to 'viscot score'.
    """
    from viscot_core.runs.evaluate import evaluate
    from viscot_core.score.vqa import score_vqa
    from viscot_core.tasks.vqa_file import STYLES, VqaFile

    engine = who.options(batch_size, server.options())
    strategies, loop = strategies_of(names_of(strategy), zoom, engine, "direct")
    task = VqaFile(questions, images, style, strategies, skip_missing, max_new_tokens, loop, attention_layer)
    out = out or default_out(who.model, questions.stem)
    with counted("bench vqa") as progress:
        info, tally = evaluate(task, engine, out, progress=progress)
    judge = STYLES[style].judge
    if judge is not None:
        info = score_vqa(out, judge)
        show_figures(info)
    then = f"viscot stats {out}"
    if judge is None:
        then = f"viscot score {out} --judge openai:MODEL; {then}"
    report(out, info, tally, then, max_truncated)


app.command("run")(bench_run.run)
for name, command in bench_tools.COMMANDS.items():
    app.command(name)(command)
