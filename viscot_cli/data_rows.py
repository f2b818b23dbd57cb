"""``viscot data mix | show | stats | synth``: commands that read and write rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_core.errors import UsageError

if TYPE_CHECKING:
    from viscot_core.data.stats import FileStats, Shared
    from viscot_core.families.training import TrainingProcessor

_LEARNED = ("\u00ab", "\u00bb")
"""Quotation marks that are rare in rows and prompts."""

SkipBad = Annotated[int, typer.Option(min=0, help="How many bad rows to skip (and list) before giving up.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
LengthsTemplate = Annotated[
    str | None, typer.Option(help="Prompt template for the lengths; default: vicuna_v1.")
]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes.")]


def mix(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="JSON, JSONL, a YAML list, or a recipe with --data."),
    ],
    out: Annotated[Path, typer.Option(help="The mixture's folder.")],
    weight: Annotated[
        list[str] | None, typer.Option(help="NAME=0.5: how often a source is seen per epoch. Repeatable.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data root of the recipe's files.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Measure row lengths with this model's tokenizer."),
    ] = None,
    template: LengthsTemplate = None,
    skip_bad: SkipBad = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that measure lengths; default: 1.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing mixture.")] = False,
) -> None:
    """Combine several training files into one memory-mapped mixture with weights."""
    from viscot_core.data.mix import build, parse_weights, sources_of

    sources = sources_of(_training_files(files, data), parse_weights(weight or ()))
    processor = _measure(tokenizer, template, "--workers" if workers else "")
    with console.transfers() as report:
        mixture = build(
            out,
            sources,
            skip_bad=skip_bad,
            overwrite=overwrite,
            progress=lambda done, of: report("files read", done, of),
        )
    rows = [[s.name, s.rows, f"{s.weight:g}", round(s.rows * s.weight), s.skipped] for s in mixture.sources]
    columns = ["source", "rows", "weight", "rows per epoch", "skipped"]
    console.table(columns, rows, right=columns[1:])
    console.say(f"{len(mixture)} rows in {out}")
    if processor:
        from viscot_core.data.encode import token_lengths

        with _counted("rows measured", len(mixture)) as progress:
            lengths = token_lengths(mixture, processor, workers=workers or 1, progress=progress)
        console.say(f"tokens per row: mean {lengths.mean():.1f}, longest {lengths.max()}")


def _measure(tokenizer: str | None, template: str | None, other: str = "") -> TrainingProcessor | None:
    """What measures lengths, if anything; UsageError if an option needs lengths that nothing measures."""
    from viscot_core.families.table import text_template, training_of

    words = text_template(template or "vicuna_v1")
    given = "--template" if template else other
    if given and not tokenizer:
        raise UsageError(f"{given} only matters for measured lengths; pass --tokenizer to measure them.")
    if not tokenizer:
        return None
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.zoo import resolve

    found = open_checkpoint(resolve(tokenizer))
    return training_of(found, tokenizer).processor(found).under(words.name)


@contextmanager
def _counted(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for callers that report the total done so far, not the increment."""
    with console.progress(what, total) as advance:
        seen = 0

        def progress(done: int, of: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        yield progress


def _training_files(files: Sequence[str], data: Path | None) -> list[Path]:
    """The given paths; with ``data``, recipes are replaced by the files of their finetune stage under it."""
    from viscot_core.train.recipe.load import load_recipe

    if data is None:
        for name in files:
            if not Path(name).suffix and not Path(name).exists():
                raise UsageError(f"There is no file '{name}'; a recipe's name needs its data root as --data.")
        return [Path(name) for name in files]
    found: list[Path] = []
    for name in files:
        stages = [stage for stage in load_recipe(name).stages if stage.kind == "finetune"]
        found += [data / file for stage in stages for file in stage.data_files]
    if not found:
        raise UsageError("The recipe has no finetune stage; give the files themselves.")
    return found


def show(
    where: Annotated[
        Path, typer.Argument(metavar="DATA", help="A data root, an annotation file or a mixture.")
    ],
    which: Annotated[
        str, typer.Argument(metavar="SAMPLE", help="cub:17 in a data root, otherwise a row number.")
    ],
    save: Annotated[Path, typer.Option(help="The drawn sample.")] = Path("sample.png"),
    images: Annotated[Path | None, typer.Option(help="Folder of the image paths.")] = None,
    template: Annotated[str, typer.Option(help="Prompt template: vicuna_v1, tiny or plain.")] = "vicuna_v1",
) -> None:
    """Draw one sample: image, box, exact crop, prompt, and which part of it is supervised."""
    from viscot_core.data.sample import draw_sample
    from viscot_core.images.drawing import check_ending, save_image

    check_ending(save)
    found = draw_sample(where, which, images=images, template=template)
    opening, closing = _LEARNED
    console.out(
        *(
            console.styled(f"{opening}{text}{closing}", fg="green", bold=True) if learned else text
            for text, learned in found.spans
        )
    )
    console.say(f"\nThe loss includes only the text between {_LEARNED[0]} and {_LEARNED[1]}.")
    for path in found.row.image:
        console.say(f"image: {path}")
    if found.window:
        left, top, right, bottom = found.window
        console.say(f"crop: x {left} to {right}, y {top} to {bottom}, in pixels of the image")
    if found.sheet:
        save_image(found.sheet, save)
        colors = ["region red"] * bool(found.box) + ["crop white"] * bool(found.window)
        console.say(f"drawn: {save}" + (f" ({', '.join(colors)})" if colors else ""))


def stats(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Annotation files of any kind.")],
    tokenizer: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Measure lengths with this model's tokenizer.")
    ] = None,
    template: LengthsTemplate = None,
    skip_bad: SkipBad = 0,
    json: Json = False,
) -> None:
    """Rows per data set, region sizes, lengths in tokens, images shared by training and benchmark files."""
    from functools import partial

    from viscot_core.data.encode import row_length
    from viscot_core.data.stats import file_stats, shared_images
    from viscot_core.sources.catalog import load_catalog

    processor = _measure(tokenizer, template)
    length = partial(row_length, processor) if processor else None
    with console.progress("rows") as advance:
        found = [file_stats(path, length=length, skip_bad=skip_bad, progress=advance) for path in files]
    shared = shared_images(found, load_catalog().prefixes)
    if json:
        for one in found:
            console.emit(_facts(one, shared))
        return
    _rows_table(found)
    _region_table(found)
    if tokenizer:
        _length_table(found)
    if {one.is_benchmark for one in found} == {True, False}:
        _shared_table(shared)
    for bad in (bad for one in found for bad in one.bad):
        console.say(f"skipped: {bad}")


def _facts(one: FileStats, shared: Sequence[Shared]) -> dict[str, object]:
    from viscot_core.data.stats import EDGES

    return {
        "file": str(one.file),
        "kind": one.kind.__name__,
        "rows": one.rows,
        "bad": len(one.bad),
        # Keys of 0.1.0, which other programs read: they stay, although all else says image.
        "pictures": len(one.images),
        "data_sets": dict(one.data_sets),
        "area_edges": EDGES,
        "area_counts": one.histogram(),
        "lengths": _spread(one),
        "shared_pictures": [pair for pair in shared if pair.training == one.file],
    }


def _spread(one: FileStats) -> dict[str, float]:
    import numpy as np

    if not one.lengths:
        return {}
    values = np.frombuffer(one.lengths, np.int32)
    middle, high = np.percentile(values, [50, 95])
    return {"mean": float(values.mean()), "p50": middle, "p95": high, "max": int(values.max())}


def _rows_table(found: Sequence[FileStats]) -> None:
    """Rows per data set; beside the training data, the sizes that the paper prints."""
    from viscot_core.report.compare import load_paper
    from viscot_core.report.names import canonical

    counted = [(s, name, count) for s in found for name, count in s.data_sets.most_common()]
    printed = [None if s.is_benchmark else load_paper().training.get(canonical(n)) for s, n, _ in counted]
    rows: list[list[object]] = [[s.file, name, count] for s, name, count in counted]
    columns = ["file", "data set", "rows"]
    if any(printed):
        columns.append("paper's Table 2")
        rows = [[*row, f"{n // 1000}k" if n else ""] for row, n in zip(rows, printed, strict=True)]
    console.table(columns, rows, right=columns[2:], title="Rows per data set")


def _region_table(found: Sequence[FileStats]) -> None:
    from viscot_core.data.stats import EDGES

    percents = [f"{100 * edge:g}" for edge in EDGES]
    bins = [f"{low}-{high}%" for low, high in pairwise(percents)]
    rows = [[s.file, len(s.images), len(s.areas), *s.histogram()] for s in found]
    columns = ["file", "images", "regions", *bins]
    console.table(columns, rows, right=columns[1:], title="\nRegions by their share of the padded square")


def _length_table(found: Sequence[FileStats]) -> None:
    rows = [[s.file, *(f"{value:.0f}" for value in _spread(s).values())] for s in found if s.lengths]
    columns = ["file", "mean", "p50", "p95", "max"]
    console.table(columns, rows, right=columns[1:], title="\nTokens per row, images included")


def _shared_table(shared: Sequence[Shared]) -> None:
    if not shared:
        console.out("\nNo image is in both a training file and a benchmark file.")
        return
    rows = [[s.training, s.benchmark, s.of, s.same_path, s.same_name] for s in shared]
    columns = ["training file", "benchmark file", "its images", "same path", "path or name"]
    console.table(
        columns, rows, right=columns[2:], title="\nBenchmark images that are also in training files"
    )


class SynthKind(StrEnum):
    """What the scenes of `synth` are."""

    cards = "cards"
    search = "search"
    vstar = "vstar"
    hrbench = "hrbench"
    treebench = "treebench"
    visualprobe = "visualprobe"
    zoombench = "zoombench"
    mme_realworld_lite = "mme-realworld-lite"


def synth(
    out: Annotated[Path, typer.Option(help="The data root to create.")],
    train: Annotated[int, typer.Option(min=0, help="Training scenes.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Held-out scenes, with one benchmark question each.")] = 300,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    kind: Annotated[
        SynthKind,
        typer.Option(
            metavar="KIND",
            help="cards: one look is enough; search: large images, two or three looks; vstar, hrbench, "
            "treebench, visualprobe, zoombench, mme-realworld-lite: --val questions in that benchmark's "
            "own file format, for 'bench run'.",
        ),
    ] = SynthKind.cards,
    train_images: Annotated[
        bool,
        typer.Option(
            "--train-images/--no-train-images",
            help="For search: write the training images too (about 1 MB each). Without them, only the recipe "
            "tiny-zoom can train: it draws what it needs.",
        ),
    ] = True,
    lists: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="For search: share of scenes with a list to walk, card by card (viscot-tiny-zoom has not "
            "learned them).",
        ),
    ] = 0.0,
    workers: Workers = 1,
) -> None:
    """Make an offline data set: drawn scenes, training rows and a benchmark in the real data's layout."""
    if kind is not SynthKind.search and not train_images:
        raise UsageError("--no-train-images is only for --kind search; remove it.")
    if kind is not SynthKind.search and lists:
        raise UsageError("--lists is only for --kind search; remove it.")
    if kind not in (SynthKind.cards, SynthKind.search):
        from viscot_core.data.benchmarks.synth import write_benchmark

        made = write_benchmark(out, kind.value, count=val, seed=seed)
        console.table(["file", "rows"], made.items(), right=["rows"])
        return
    images = val + (train if train_images else 0)
    with _counted("images", images) as progress:
        if kind is SynthKind.search:
            from viscot_core.data.search.rows import write_search

            counts = write_search(
                out,
                train=train,
                val=val,
                seed=seed,
                workers=workers,
                train_images=train_images,
                lists=lists,
                progress=progress,
            )
        else:
            from viscot_core.data.synth import write_dataset

            counts = write_dataset(out, train=train, val=val, seed=seed, workers=workers, progress=progress)
    console.table(["file", "rows"], counts.items(), right=["rows"])
