"""Tools around a benchmark: the lists, one item of a run, a model's box format, the reference's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console
from viscot_cli.bench_options import (
    Concurrency,
    Data,
    MaxRequests,
    ServerOptions,
    Timeout,
    check_export,
)
from viscot_cli.bench_report import export_run
from viscot_cli.grouped import Names, grouped, names_of
from viscot_cli.model_options import WhoAnswers


def import_(
    data: Data,
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    boxes: Annotated[
        Path | None, typer.Option(help="The reference's detection folder, with one NAME.jsonl a data set.")
    ] = None,
    answers: Annotated[
        list[str] | None,
        typer.Option(help="STRATEGY=FOLDER, one NAME.jsonl a data set; may be repeated."),
    ] = None,
    refcoco: Annotated[Path | None, typer.Option(help="The reference's RefCOCO folder: REC_*.jsonl.")] = None,
    model: Annotated[str, typer.Option(help="Whose results they are, for the record.")] = "reference",
) -> None:
    """Read the reference's own result files into a run folder, to score and compare them here."""
    from viscot_core.errors import UsageError
    from viscot_core.runs.exchange import import_results
    from viscot_core.tasks.reference_files import ReferenceFiles

    folders = {}
    for each in answers or []:
        strategy, mark, folder = each.partition("=")
        if not mark:
            raise UsageError(f"--answers is STRATEGY=FOLDER, like cot=results, not '{each}'.")
        folders[strategy] = Path(folder)
    info = import_results(ReferenceFiles(boxes, folders, refcoco), data, out, model)
    console.out(
        f"{out}: {info.counts['done']} items read, {info.counts['pending']} of its questions have none"
    )


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write [RUN/upstream, RUN/coco].")] = None,
    to: Annotated[
        str,
        typer.Option("--to", help="upstream: the reference's own files; coco: boxes as COCO files."),
    ] = "upstream",
) -> None:
    """Write a run as the reference's own result files, for its scorer, or its boxes as COCO files."""
    check_export(to)
    export_run(run, out or run / to, to)


def list_() -> None:
    """The data sets, splits, strategies and box formats that 'viscot bench' knows."""
    from viscot_core.boxes.geometry import CENTER
    from viscot_core.boxes.registry import CODECS
    from viscot_core.sources.catalog import load_catalog
    from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS
    from viscot_core.tasks.suites import REFCOCO, SUITES
    from viscot_core.tasks.visual_cot.strategies import STRATEGIES

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
    sources = load_catalog()
    console.table(
        ["benchmark", "questions", "license", "origin"],
        [(b.name, b.items, sources.named(b.name).license, b.source) for b in BENCHMARKS.values()],
        right=["questions"],
        title="bench run",
    )
    console.table(
        ["box format", "the middle box of a 640 x 480 image", "standing"],
        [(c.name, c.encode(CENTER, (640, 480)), c.standing) for c in CODECS.values()],
        title="--box-format",
    )


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    item: Annotated[str, typer.Argument(metavar="ITEM", help="DATASET:ID, like docvqa:17.")],
    strategy: Annotated[str | None, typer.Option(help="Only this strategy [all of the run].")] = None,
    save: Annotated[Path | None, typer.Option(help="Draw image, box and crop into FILE.png.")] = None,
) -> None:
    """One item of a run: image, box, crop, the exact prompts, answer."""
    from viscot_core.data.traces.showing import look_lines
    from viscot_core.data.traces.trace import trace_in
    from viscot_core.runs.replay import replay_item

    shown = replay_item(run, item, strategy=strategy)
    for each in shown:
        p = each.prediction
        console.out(f"{p.strategy}  {p.dataset}:{p.question_id}  {each.image}")
        console.out(f"  question   {p.question}")
        if p.box is not None:
            box = ", ".join(f"{n:.3f}" for n in p.box)
            overlap = "" if p.iou is None else f"  IoU {p.iou:.3f}"
            console.out(f"  box        {box}  ({p.box_status or 'given'}: {p.box_text!r}){overlap}")
        if p.crop is not None:
            console.out(f"  crop       {', '.join(map(str, p.crop))} of {p.width} x {p.height}")
        if p.trace is not None:
            for line in look_lines(trace_in(p.trace)):
                console.out(f"  {line}")
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


def tsv(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="cot (the Visual CoT benchmark), or one of 'bench run'.")
    ],
    out: Annotated[Path, typer.Option(help="The TSV, like LMUData/VisualCoT.tsv.")],
    data: Data = Path("data"),
    tasks: Annotated[Names, typer.Option(help="cot: data sets, comma-separated [the paper's].")] = None,
    order: Annotated[str, typer.Option(help="Of the options: shuffled by --seed, or file.")] = "shuffled",
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
) -> None:
    """A benchmark as a TSV for VLMEvalKit's custom data: put it into LMUData and give its name as --data.

    With options VLMEvalKit scores it by itself; the answers to open questions are scored by 'viscot score'.
    """
    from viscot_core.tasks.base import Task
    from viscot_core.tasks.benchmarks.task import Benchmarks
    from viscot_core.tasks.loading import Selection
    from viscot_core.tasks.visual_cot.task import VisualCot
    from viscot_core.tasks.vlmevalkit_export import write_vlmevalkit

    select = Selection(seed=seed)
    task: Task = (
        Benchmarks(data, (name,), order=order, select=select)
        if name != "cot"
        else VisualCot(data, tasks=names_of(tasks), select=select)
    )
    console.out(f"{out}: {write_vlmevalkit(task.load().items, out)} rows")


@grouped
def calibrate(
    who: WhoAnswers,
    formats: Annotated[Names, typer.Option("--formats", help="Box formats to try [all].")] = None,
    count: Annotated[int, typer.Option(min=4, help="Drawn images that each format is tried on.")] = 8,
    concurrency: Concurrency = 8,
    timeout: Timeout = 120.0,
    max_requests: MaxRequests = None,
) -> None:
    """Find out how a model writes boxes: every format is tried on the same drawn images with known boxes."""
    from viscot_core.boxes.registry import CODECS, codec
    from viscot_core.engines.open import as_seen, known_codec, open_engine
    from viscot_core.errors import PartlyDone, UsageError
    from viscot_core.tasks.calibrate import FITS
    from viscot_core.tasks.calibrate import calibrate as measure

    if who.model is None:
        raise UsageError("Whose boxes? Name the model with --model.")
    if who.box_format is not None:
        raise UsageError("To try some formats only, name them with --formats; leave out --box-format.")
    options = who.options(api=ServerOptions(concurrency, timeout, max_requests).options())
    named = [codec(name) for name in names_of(formats)] or list(CODECS.values())
    chosen = [as_seen(each, options) for each in named]
    # Calibration shows each format its own size of image: the engine sends them as they are.
    engine = open_engine(options)
    fits = measure(engine, chosen, count=count)
    rows = [
        (
            f.codec.name,
            f"{f.read} of {f.replies}",
            f"{f.mean_iou:.3f}",
            "fits" if f.fits else "",
            f.example[:60],
        )
        for f in fits
    ]
    console.table(["box format", "boxes read", "mean IoU", "", "a reply"], rows, right=["mean IoU"])
    own = known_codec(options)
    if own is not None:
        console.say(f"the model's config or name says {own.name}: no --box-format is needed")
    if any(fit.fits for fit in fits):
        return
    none = f"No box format reaches a mean IoU of {FITS}, so the drawn images prove nothing"
    if own is not None:
        raise PartlyDone(
            f"{none}: this model does not find their rectangles, and its own format {own.name} stays right."
        )
    raise PartlyDone(f"{none}: the model may use none of them, or not know such images.")


COMMANDS: dict[str, Callable[..., None]] = {
    "import": import_,
    "export": export,
    "list": list_,
    "show": show,
    "tsv": tsv,
    "calibrate": calibrate,
}
