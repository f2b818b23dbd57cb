"""``viscot bench``: run a benchmark into a run folder, continue one, look at one item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.bench.journal import RunInfo
    from viscot_core.bench.run import Tally
    from viscot_core.boxes import CropPolicy
    from viscot_core.engines.api import ApiOptions

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
Out = Annotated[Path | None, typer.Option(help="The run folder [results/MODEL-BENCHMARK].")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="This many questions of each data set, drawn by --seed.")
]
Seed = Annotated[int, typer.Option(help="Of --limit and of random boxes.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out questions without a picture.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts that run together.")]
Batch = Annotated[str, typer.Option("--batch-size", help="Prompts that run together; auto finds what fits.")]
ProtocolName = Annotated[
    str, typer.Option(help="paper: the reference's exact prompts; native: viscot's own.")
]
BoxFormat = Annotated[
    str | None, typer.Option(help="How the model writes boxes; 'viscot bench list' shows them.")
]
MaxNew = Annotated[int, typer.Option(min=1, help="Longest box and answer, in tokens.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Server: prompts under way at once.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Server: seconds until a call is tried again.")]
MaxRequests = Annotated[int | None, typer.Option(min=1, help="Server: stop after this many calls.")]
MaxCost = Annotated[float | None, typer.Option(help="Server: stop before this many dollars; needs --price.")]
PriceOf = Annotated[str | None, typer.Option(help="READ,WRITTEN in dollars for a million tokens each.")]
Gpus = Annotated[int, typer.Option(min=1, help="Share the pictures among this many GPUs of this machine.")]
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
        out=out or _default_out(model, "cot"),
        data=data,
        engine=EngineOptions(
            model,
            device,
            dtype,
            load_in,
            attn,
            _batch(batch_size),
            box_format,
            _api(concurrency, timeout, max_requests, max_cost, price),
        ),
        limit=limit,
        seed=seed,
        skip_missing=skip_missing,
        protocol=protocol,
        max_new_tokens=max_new_tokens,
        gpus=gpus,
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
    then = f"viscot stats {options.out} after viscot score {options.out} --judge exact"
    _report(options.out, info, tally, then)


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
        out=out or _default_out(model, "refcoco"),
        data=data,
        engine=EngineOptions(
            model,
            device,
            dtype,
            load_in,
            attn,
            _batch(batch_size),
            box_format,
            _api(concurrency, timeout, max_requests, max_cost, price),
        ),
        limit=limit,
        seed=seed,
        skip_missing=skip_missing,
        max_new_tokens=max_new_tokens,
        gpus=gpus,
    )
    with _counted("bench refcoco") as progress:
        info, tally = bench_refcoco(options, splits=_names(splits), progress=progress)
    _report(options.out, info, tally, f"viscot stats {options.out}")


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

    from viscot_core.bench.general import GeneralOptions, bench_general
    from viscot_core.engines.open import EngineOptions
    from viscot_core.score.lmms import import_scores

    options = GeneralOptions(
        out=out or _default_out(model, "general"),
        tasks=_names(tasks),
        engine=EngineOptions(model, device, dtype, load_in, attn, batch_size, box_format),
        strategies=_names(strategy),
        backend=backend,
        data=data,
        limit=limit,
        python=python or sys.executable,
    )
    with ExitStack() as bars:
        shown: dict[str, Callable[[int, int], None]] = {}

        def progress(task: str, done: int, total: int) -> None:
            if task not in shown:
                shown[task] = bars.enter_context(_counted(task))
            shown[task](done, total)

        info, tally = bench_general(options, progress)
    import_scores(options.out)
    _figures(info)
    _report(options.out, info, tally, f"viscot stats {options.out} --compare paper")


@app.command("import")
def import_(
    data: Data,
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    boxes: Annotated[
        Path | None, typer.Option(help="The reference's detection folder: NAME.jsonl each.")
    ] = None,
    answers: Annotated[
        list[str] | None, typer.Option(help="STRATEGY=FOLDER of NAME.jsonl each; may be given again.")
    ] = None,
    refcoco: Annotated[Path | None, typer.Option(help="The reference's RefCOCO folder: REC_*.jsonl.")] = None,
    model: Annotated[str, typer.Option(help="Whose results they are, for the record.")] = "reference",
) -> None:
    """Read the reference's own result files into a run folder, to score and compare them here."""
    from viscot_core.bench.upstream import UpstreamFiles, import_upstream
    from viscot_core.errors import UsageError

    folders = {}
    for each in answers or []:
        strategy, mark, folder = each.partition("=")
        if not mark:
            raise UsageError(f"--answers is STRATEGY=FOLDER, like cot=results, not '{each}'.")
        folders[strategy] = Path(folder)
    info = import_upstream(UpstreamFiles(boxes, folders, refcoco), data, out, model)
    console.out(
        f"{out}: {info.counts['done']} items read, {info.counts['pending']} of its questions have none"
    )


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write [RUN/upstream].")] = None,
    to: Annotated[str, typer.Option("--to", help="upstream: the reference's own result files.")] = "upstream",
) -> None:
    """Write a run as the reference's own result files, for its scorer."""
    from viscot_core.bench.upstream_export import export_upstream
    from viscot_core.errors import UsageError

    if to != "upstream":
        raise UsageError(f"--to is upstream, not '{to}'.")
    for path in export_upstream(run, out or run / "upstream"):
        console.out(str(path))


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
        out=out or _default_out(model, questions.stem),
        questions=questions,
        images=images,
        engine=EngineOptions(model, device, dtype, load_in, attn, batch_size, box_format),
        style=style,
        strategies=_names(strategy),
        skip_missing=skip_missing,
        max_new_tokens=max_new_tokens,
    )
    with _counted("bench vqa") as progress:
        info, tally = bench_vqa(options, progress)
    judge = STYLES[style].judge
    if judge is not None:
        info = score_vqa(options.out, judge)
        _figures(info)
    then = f"viscot stats {options.out}" + ("" if judge else " after viscot score with a judge that reads")
    _report(options.out, info, tally, then)


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


@app.command("calibrate")
def calibrate(
    model: Annotated[str, typer.Option(help="http://HOST:PORT/v1#NAME, or a model of this machine.")],
    formats: Annotated[str, typer.Option("--formats", help="Box formats to try, with commas [all].")] = "",
    count: Annotated[int, typer.Option(min=4, help="Drawn pictures a format is asked about.")] = 8,
    concurrency: Concurrency = 8,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
) -> None:
    """Find out how a model writes boxes: drawn pictures with known boxes, every format over the same ones."""
    from viscot_core.bench.calibrate import FITS
    from viscot_core.bench.calibrate import calibrate as measure
    from viscot_core.engines.families import CODECS, codec
    from viscot_core.engines.open import EngineOptions, open_engine
    from viscot_core.errors import PartlyDone

    chosen = [codec(name) for name in _names(formats)] or list(CODECS.values())
    api = _api(concurrency, timeout, max_requests, None, None)
    # Calibration shows each format its own size of picture: the engine sends them as they are.
    engine = open_engine(EngineOptions(model, box_format="viscot", api=api))
    fits = measure(engine, chosen, count=count)
    rows = [
        (
            f.codec.name,
            f"{f.read} of {f.asked}",
            f"{f.mean_iou:.3f}",
            "fits" if f.fits else "",
            f.example[:60],
        )
        for f in fits
    ]
    console.table(["box format", "boxes read", "mean IoU", "", "a reply"], rows, right=["mean IoU"])
    if not any(fit.fits for fit in fits):
        raise PartlyDone(f"No box format reaches a mean IoU of {FITS}: the model may write none of them.")


def _api(
    concurrency: int, timeout: float, max_requests: int | None, max_cost: float | None, price: str | None
) -> ApiOptions:
    from viscot_core.engines.api import ApiOptions, Price
    from viscot_core.errors import UsageError

    parsed = None
    if price is not None:
        try:
            read, written = (float(part) for part in price.split(","))
        except ValueError as error:
            raise UsageError(f"--price is READ,WRITTEN like 0.15,0.60, not '{price}'.") from error
        parsed = Price(read, written)
    return ApiOptions(concurrency, timeout, max_requests=max_requests, max_cost=max_cost, price=parsed)


def _batch(text: str) -> int:
    """``auto`` is 0."""
    from viscot_core.errors import UsageError

    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size is auto or a number from 1, not '{text}'.")
    return int(text)


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


def _figures(info: RunInfo) -> None:
    """Whole data sets' figures, where a run keeps them."""
    rows = [
        (strategy, name, metric, f"{value:.4g}")
        for strategy, sets in info.figures.items()
        for name, metrics in sets.items()
        for metric, value in metrics.items()
    ]
    if rows:
        console.table(["strategy", "task", "metric", "figure"], rows, right=("figure",))


def _report(out: Path, info: RunInfo, tally: Tally, then: str) -> None:
    """What was done and what is open; PartlyDone where something failed or is pending."""
    from viscot_core.errors import PartlyDone

    for warning in info.warnings:
        console.say(f"note: {warning}.")
    counts = info.counts
    total = sum(counts.values())
    speed = f", {tally.finished / tally.seconds:.1f} a second" if tally.finished and tally.seconds else ""
    console.out(f"{out}: {counts['done']} of {total} done ({tally.finished} now{speed})")
    if counts["missing"]:
        console.out(f"{counts['missing']} left out: their pictures are missing (--skip-missing)")
    if counts["failed"] or counts["pending"] or tally.open:
        reasons = "".join(f"\n  {n} x {reason}" for reason, n in tally.open.most_common(5))
        raise PartlyDone(
            f"{counts['failed']} failed and {counts['pending']} pending; the same command tries them again."
            f"{reasons}"
        )
    console.say(f"next: {then}")
