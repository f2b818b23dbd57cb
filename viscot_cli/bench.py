"""``viscot bench``: run a benchmark into a run folder, continue one, look at one item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.bench.benchmarks import BenchOptions
    from viscot_core.bench.journal import RunInfo
    from viscot_core.bench.run import Tally
    from viscot_core.boxes import CropPolicy

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="Run a benchmark into a run folder; the same command again continues it.",
)

Model = Annotated[
    str | None, typer.Option(help="A name of 'viscot models list', a folder, or http://HOST:PORT/v1#NAME.")
]
Data = Annotated[Path, typer.Option(help="The data root: benchmark/, benchmark_det/, refcoco/ and pictures.")]
Out = Annotated[Path | None, typer.Option(help="The run folder [results/MODEL-cot or -refcoco].")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="This many questions of each data set, drawn by --seed.")
]
Seed = Annotated[int, typer.Option(help="Of --limit and of random boxes.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out questions without a picture.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts that run together.")]
ProtocolName = Annotated[
    str, typer.Option(help="paper: the reference's exact prompts; native: viscot's own.")
]
BoxFormat = Annotated[
    str | None, typer.Option(help="How the model writes boxes; 'viscot bench list' shows them.")
]
MaxNew = Annotated[int, typer.Option(min=1, help="Longest box and answer, in tokens.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
LoadIn = Annotated[str | None, typer.Option(help="4bit or 8bit (needs viscot[quant]).")]
Attn = Annotated[str, typer.Option(help="sdpa, flash (needs viscot[flash]) or eager.")]


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
    batch_size: BatchSize = 16,
    protocol: ProtocolName = "paper",
    box_format: BoxFormat = None,
    max_new_tokens: MaxNew = 128,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
) -> None:
    """The Visual CoT benchmark: does the model look where it must, and answer better for it?"""
    from viscot_core.bench.benchmarks import BenchOptions, bench_cot
    from viscot_core.engines.open import EngineOptions

    options = BenchOptions(
        out=out or _default_out(model, "cot"),
        data=data,
        engine=EngineOptions(model, device, dtype, load_in, attn, batch_size, box_format),
        limit=limit,
        seed=seed,
        skip_missing=skip_missing,
        protocol=protocol,
        max_new_tokens=max_new_tokens,
    )
    with _counted("bench cot") as progress:
        info, tally = bench_cot(
            options,
            names=_names(strategy),
            suite=suite,
            tasks=_names(tasks),
            crop_policy=_policy(crop_policy),
            progress=progress,
        )
    _report(options, info, tally)


@app.command("refcoco")
def refcoco(
    model: Model = None,
    data: Data = Path("data"),
    out: Out = None,
    splits: Annotated[str, typer.Option(help="Like refcoco:testA,refcoco+:val [all that are there].")] = "",
    limit: Limit = None,
    seed: Seed = 0,
    skip_missing: SkipMissing = False,
    batch_size: BatchSize = 16,
    box_format: BoxFormat = None,
    max_new_tokens: MaxNew = 128,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
) -> None:
    """Referring expressions: the box of what a sentence describes (RefCOCO, RefCOCO+, RefCOCOg)."""
    from viscot_core.bench.benchmarks import BenchOptions, bench_refcoco
    from viscot_core.engines.open import EngineOptions

    options = BenchOptions(
        out=out or _default_out(model, "refcoco"),
        data=data,
        engine=EngineOptions(model, device, dtype, load_in, attn, batch_size, box_format),
        limit=limit,
        seed=seed,
        skip_missing=skip_missing,
        max_new_tokens=max_new_tokens,
    )
    with _counted("bench refcoco") as progress:
        info, tally = bench_refcoco(options, splits=_names(splits), progress=progress)
    _report(options, info, tally)


@app.command("list")
def list_() -> None:
    """The data sets, splits, strategies and box formats that 'viscot bench' knows."""
    from viscot_core.bench.items import REFCOCO, SUITES
    from viscot_core.bench.strategies import STRATEGIES
    from viscot_core.boxes import CENTER
    from viscot_core.engines.families import CODECS

    console.table(
        ["suite", "data sets"],
        [(name, f"{len(sets)}: {', '.join(sets)}") for name, sets in SUITES.items()],
        title="bench cot: --suite, or --tasks with any of them",
    )
    console.table(
        ["strategy", "what it does"],
        [(s.name, s.summary) for s in STRATEGIES.values()],
        title="bench cot: --strategy",
    )
    console.table(["split"], [(name.replace("/", ":"),) for name in REFCOCO], title="bench refcoco: --splits")
    console.table(
        ["box format", "the middle box of a 640 x 480 picture", "standing"],
        [(c.name, c.encode(CENTER, (640, 480)), c.standing) for c in CODECS.values()],
        title="--box-format",
    )


@app.command("show")
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    item: Annotated[str, typer.Option("--id", help="DATASET:ID, like docvqa:17.")],
    strategy: Annotated[str | None, typer.Option(help="Only this one [all that were run].")] = None,
    save: Annotated[Path | None, typer.Option(help="Draw picture, box and crop into FILE.png.")] = None,
) -> None:
    """One item of a run: picture, box, crop, the exact prompts, answer."""
    from viscot_core.bench.show import show_item

    shown = show_item(run, item, strategy=strategy)
    for each in shown:
        p = each.prediction
        console.out(f"{p.strategy}  {p.dataset}:{p.question_id}  {each.picture}")
        console.out(f"  question   {p.question}")
        if p.box is not None:
            box = ", ".join(f"{n:.3f}" for n in p.box)
            overlap = "" if p.iou is None else f"  IoU {p.iou:.3f}"
            console.out(f"  box        {box}  ({p.box_status or 'given'}: {p.box_text!r}){overlap}")
        if p.crop is not None:
            console.out(f"  crop       {', '.join(map(str, p.crop))} of {p.width} x {p.height}")
        if p.status == "failed":
            console.out(f"  failed     {p.error}")
        if p.answer is not None:
            console.out(f"  answer     {p.answer}")
        if p.reference is not None:
            console.out(f"  reference  {p.reference}")
        for number, prompt in enumerate(each.prompts, 1):
            console.out(f"  prompt {number}   {prompt!r}")
    if save is not None:
        shown[0].save(save)
        console.say(f"saved {save} ({shown[0].prediction.strategy})")


def _policy(name: str) -> CropPolicy:
    from viscot_core.boxes import CropPolicy
    from viscot_core.errors import UsageError, nearest

    choices = [policy.value for policy in CropPolicy]
    if name not in choices:
        raise UsageError(
            f"--crop-policy is one of {', '.join(choices)}, not '{name}'.{nearest(name, choices)}"
        )
    return CropPolicy(name)


@contextmanager
def _counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress that learns its total from the first call."""
    with ExitStack() as stack:
        advance: list[Callable[[int], None]] = []
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if not advance:
                advance.append(stack.enter_context(console.progress(what, total)))
            advance[0](done - shown)
            shown = done

        yield progress


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _default_out(model: str | None, kind: str) -> Path:
    name = (model or "viscot-tiny").rstrip("/").replace("#", "/").rpartition("/")[2]
    return Path("results") / f"{name}-{kind}"


def _report(options: BenchOptions, info: RunInfo, tally: Tally) -> None:
    """What was done and what is open; PartlyDone where something failed or is pending."""
    from viscot_core.errors import PartlyDone

    for warning in info.warnings:
        console.say(f"note: {warning}.")
    counts = info.counts
    total = sum(counts.values())
    speed = f", {tally.finished / tally.seconds:.1f} a second" if tally.finished and tally.seconds else ""
    console.out(f"{options.out}: {counts['done']} of {total} done ({tally.finished} now{speed})")
    if counts["missing"]:
        console.out(f"{counts['missing']} left out: their pictures are missing (--skip-missing)")
    if counts["failed"] or counts["pending"]:
        reasons = "".join(f"\n  {n} x {reason}" for reason, n in tally.open.most_common(5))
        raise PartlyDone(
            f"{counts['failed']} failed and {counts['pending']} pending; the same command tries them again."
            f"{reasons}"
        )
    console.say(
        f"next: viscot stats {options.out}"
        + ("" if info.kind == "refcoco" else f" after viscot score {options.out} --judge exact")
    )
