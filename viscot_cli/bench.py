"""``viscot bench``: run a benchmark into a run folder, continue one, look at one item."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import bench_tools
from viscot_cli.bench_options import (
    Attn,
    Batch,
    BatchSize,
    BoxFormat,
    Concurrency,
    Data,
    Device,
    Dtype,
    Gpus,
    Limit,
    LoadIn,
    MaxCost,
    MaxNew,
    MaxRequests,
    Model,
    Out,
    PriceOf,
    ProtocolName,
    Seed,
    SkipMissing,
    Timeout,
    api_options,
    batch_size_of,
    counted,
    default_out,
    names_of,
    policy_of,
    report,
    show_figures,
)

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="Run a benchmark into a run folder; the same command again continues it.",
)


@app.command("cot")
def cot(
    model: Model = None,
    data: Data = Path("data"),
    out: Out = None,
    strategy: Annotated[
        str, typer.Option(help="Any of cot,direct,gt-box,random-box,center-box,no-image, with commas.")
    ] = "cot",
    tasks: Annotated[str, typer.Option(help="Data sets, with commas [those of --suite].")] = "",
    suite: Annotated[str | None, typer.Option(help="paper (12 data sets), scripts (11) or all (13).")] = None,
    crop_policy: Annotated[str, typer.Option(help="paper, tight, expanded or centered (Table 5).")] = "paper",
    limit: Limit = None,
    seed: Seed = 0,
    skip_missing: SkipMissing = False,
    batch_size: Batch = "auto",
    protocol: ProtocolName = "paper",
    box_format: BoxFormat = None,
    max_new_tokens: MaxNew = 128,
    gpus: Gpus = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
    concurrency: Concurrency = 8,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
    max_cost: MaxCost = None,
    price: PriceOf = None,
) -> None:
    """The Visual CoT benchmark: does the model look where it must, and answer better for it?"""
    from viscot_core.bench.benchmarks import BenchOptions, bench_cot
    from viscot_core.engines.open import EngineOptions

    options = BenchOptions(
        out=out or default_out(model, "cot"),
        data=data,
        engine=EngineOptions(
            model,
            device,
            dtype,
            load_in,
            attn,
            batch_size_of(batch_size),
            box_format,
            api_options(concurrency, timeout, max_requests, max_cost, price),
        ),
        limit=limit,
        seed=seed,
        skip_missing=skip_missing,
        protocol=protocol,
        max_new_tokens=max_new_tokens,
        gpus=gpus,
    )
    with counted("bench cot") as progress:
        info, tally = bench_cot(
            options,
            names=names_of(strategy),
            suite=suite,
            tasks=names_of(tasks),
            crop_policy=policy_of(crop_policy),
            progress=progress,
        )
    then = f"viscot stats {options.out} after viscot score {options.out} --judge exact"
    report(options.out, info, tally, then)


@app.command("refcoco")
def refcoco(
    model: Model = None,
    data: Data = Path("data"),
    out: Out = None,
    splits: Annotated[str, typer.Option(help="Like refcoco:testA,refcoco+:val [all that are there].")] = "",
    limit: Limit = None,
    seed: Seed = 0,
    skip_missing: SkipMissing = False,
    batch_size: Batch = "auto",
    box_format: BoxFormat = None,
    max_new_tokens: MaxNew = 128,
    gpus: Gpus = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
    concurrency: Concurrency = 8,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
    max_cost: MaxCost = None,
    price: PriceOf = None,
) -> None:
    """Referring expressions: the box of what a sentence describes (RefCOCO, RefCOCO+, RefCOCOg)."""
    from viscot_core.bench.benchmarks import BenchOptions, bench_refcoco
    from viscot_core.engines.open import EngineOptions

    options = BenchOptions(
        out=out or default_out(model, "refcoco"),
        data=data,
        engine=EngineOptions(
            model,
            device,
            dtype,
            load_in,
            attn,
            batch_size_of(batch_size),
            box_format,
            api_options(concurrency, timeout, max_requests, max_cost, price),
        ),
        limit=limit,
        seed=seed,
        skip_missing=skip_missing,
        max_new_tokens=max_new_tokens,
        gpus=gpus,
    )
    with counted("bench refcoco") as progress:
        info, tally = bench_refcoco(options, splits=names_of(splits), progress=progress)
    report(options.out, info, tally, f"viscot stats {options.out}")


@app.command("general")
def general(
    tasks: Annotated[str, typer.Option(help="Tasks of lmms-eval, with commas, like pope,gqa,textvqa_val.")],
    model: Model = None,
    out: Out = None,
    strategy: Annotated[
        str, typer.Option(help="direct, cot or both; cot needs --backend viscot.")
    ] = "direct",
    backend: Annotated[
        str | None, typer.Option(help="Who answers: llava_hf, vllm or viscot [llava_hf; viscot for cot].")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data root, for the tasks visual_cot and visual_cot_chain.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N questions of each task.")] = None,
    batch_size: BatchSize = 16,
    box_format: BoxFormat = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
    python: Annotated[
        str | None, typer.Option(help="The Python that has lmms-eval, where it is another [this one].")
    ] = None,
) -> None:
    """General benchmarks (POPE, GQA, TextVQA, ScienceQA, MME, MMBench ...) through lmms-eval; paper Table 8.

    lmms-eval fetches the data and scores; viscot exports the model, starts it task by task and takes over
    figures and answers. Its tasks visual_cot and visual_cot_chain are the Visual CoT benchmark.
    """
    import sys

    from viscot_core.bench.general import bench_general
    from viscot_core.bench.lmms.command import GeneralOptions
    from viscot_core.engines.open import EngineOptions
    from viscot_core.score.lmms import import_scores

    options = GeneralOptions(
        out=out or default_out(model, "general"),
        tasks=names_of(tasks),
        engine=EngineOptions(model, device, dtype, load_in, attn, batch_size, box_format),
        strategies=names_of(strategy),
        backend=backend,
        data=data,
        limit=limit,
        python=python or sys.executable,
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
def vqa(
    questions: Annotated[
        Path, typer.Option(help="JSONL or JSON of {question_id, image, text[, answer][, category]}.")
    ],
    images: Annotated[Path, typer.Option(help="The folder the rows' pictures lie in.")],
    model: Model = None,
    out: Out = None,
    style: Annotated[
        str, typer.Option(help="What is asked for and how it is scored: short, letter, yes-no or free.")
    ] = "short",
    strategy: Annotated[str, typer.Option(help="direct, cot or both.")] = "direct",
    skip_missing: SkipMissing = False,
    batch_size: BatchSize = 16,
    box_format: BoxFormat = None,
    max_new_tokens: MaxNew = 128,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
) -> None:
    """Your own questions in LLaVA's format, asked with LLaVA's prompts, scored where answers are given.

    short adds "using a single word or phrase" and scores as VQAv2 and TextVQA; letter asks for the option's
    letter (ScienceQA); yes-no scores as POPE; free adds nothing and leaves the scores to 'viscot score'.
    """
    from viscot_core.bench.vqa import STYLES, VqaOptions, bench_vqa
    from viscot_core.engines.open import EngineOptions
    from viscot_core.score.vqa import score_vqa

    options = VqaOptions(
        out=out or default_out(model, questions.stem),
        questions=questions,
        images=images,
        engine=EngineOptions(model, device, dtype, load_in, attn, batch_size, box_format),
        style=style,
        strategies=names_of(strategy),
        skip_missing=skip_missing,
        max_new_tokens=max_new_tokens,
    )
    with counted("bench vqa") as progress:
        info, tally = bench_vqa(options, progress)
    judge = STYLES[style].judge
    if judge is not None:
        info = score_vqa(options.out, judge)
        show_figures(info)
    then = f"viscot stats {options.out}"
    if judge is None:
        then += f" after viscot score {options.out} --judge openai:MODEL"
    report(options.out, info, tally, then)


for name, command in bench_tools.COMMANDS.items():
    app.command(name)(command)
