"""``viscot traces``: talks of the zoom loop, shown as numbered steps and converted for training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.help import Commands

if TYPE_CHECKING:
    from viscot_core.data.traces.trace import Trace

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="Talks of the zoom loop: show one as numbered steps, convert them for training.",
)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A file of traces or of training rows, or a run folder.")
]
Images = Annotated[
    Path | None, typer.Option(help="The folder that image paths are relative to [the file's own].")
]


@app.command("show")
def show(
    file: File,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Which talk, from 1.")],
    images: Images = None,
    save: Annotated[Path | None, typer.Option(help="Draw the steps into FILE.png.")] = None,
    dialect: Annotated[str | None, typer.Option(help="How its calls are written, if unknown.")] = None,
) -> None:
    """One talk: the looks as numbered steps, the box on the original, the crop, what was said."""
    from itertools import islice

    from viscot_core.data.traces.showing import talk_lines
    from viscot_core.errors import DataError, UsageError
    from viscot_core.images.drawing import check_ending, save_image

    if save is not None:
        check_ending(save)
    root = images or root_of(file)
    trace = next(islice(talks_of(file, root, dialect), number - 1, None), None)
    if trace is None:
        raise UsageError(f"{file} has no talk {number}; the first is 1.")
    if isinstance(trace, str):
        raise DataError(f"{file}: {trace}.")
    for line in talk_lines(trace):
        console.out(line)
    if save is not None:
        save_image(trace.draw(root), save)
        console.say(f"saved {save}")


@app.command("convert")
def convert(
    file: File,
    to: Annotated[
        str, typer.Option("--to", help="trace, viscot, deepeyes, mini-o3, ms-swift or llamafactory.")
    ],
    out: Annotated[Path, typer.Option(help="The JSONL to write; crops go to OUT_crops/ beside it.")],
    images: Images = None,
    dialect: Annotated[
        str | None, typer.Option(help="The dialect to write [that of --to, else the trace's own].")
    ] = None,
    source_dialect: Annotated[
        str | None, typer.Option("--from", help="The dialect of FILE, where nothing in it says so.")
    ] = None,
) -> None:
    """Write talks as another project's training rows, or such rows as traces.

    Talks without an answer, and looks that the other dialect has no words for, are left out and named.
    """
    from viscot_core.data.traces.carriers import FORMATS
    from viscot_core.data.traces.conversion import convert as write
    from viscot_core.errors import PartlyDone, UsageError, check_choice
    from viscot_core.policies.dialects.known import DIALECTS

    check_choice("--to", to, FORMATS)
    for option, name in (("--dialect", dialect), ("--from", source_dialect)):
        if name is not None:
            check_choice(option, name, DIALECTS)
    if out.resolve() == file.resolve():
        raise UsageError(f"{out} is the file that is read; choose another --out.")
    root = images or root_of(file)
    with console.progress("talks") as advance:
        talks = talks_of(file, root, source_dialect)
        done = write(talks, to, out, root, name=dialect, progress=lambda _: advance(1))
    crops = f", {done.crops} crops" if done.crops else ""
    console.out(f"{out}: {done.rows} talks as {to}{crops}")
    for reason in done.left_out[:5]:
        console.say(f"left out: {reason}")
    if done.left_out:
        raise PartlyDone(f"{len(done.left_out)} of {done.rows + len(done.left_out)} talks were left out.")


def root_of(file: Path) -> Path:
    """What image paths of a file are relative to: its folder, or the data root of a run."""
    from viscot_core.runs.records import read_run

    run = _run_of(file)
    return Path(read_run(run).data) if run else file.parent


def _run_of(file: Path) -> Path | None:
    """The run folder that ``file`` is, or whose records it has; None for a file of rows."""
    from viscot_core.runs.records import PREDICTIONS_FILE, RUN_FILE

    if file.name == PREDICTIONS_FILE and (file.parent / RUN_FILE).exists():
        return file.parent
    return file if file.is_dir() else None


def talks_of(file: Path, root: Path, dialect: str | None) -> Iterator[Trace | str]:
    """The talks of a file or a run folder, or why a row is none."""
    from viscot_core.boxes.geometry import Box
    from viscot_core.data.traces.conversion import read_any
    from viscot_core.data.traces.trace import trace_in
    from viscot_core.errors import UsageError
    from viscot_core.runs.records import read_predictions

    run = _run_of(file)
    if run is None:
        yield from read_any(file, root, dialect)
        return
    found = False
    for prediction in read_predictions(run):
        if prediction.trace is None:
            continue
        found = True
        trace = trace_in(prediction.trace)
        if trace.reference_box is None and prediction.box_gt is not None:  # an older run
            box = Box(*prediction.box_gt).to_original((prediction.width, prediction.height))
            trace = trace.model_copy(update={"reference_box": box.coords})
        yield trace
    if not found:
        raise UsageError(
            f"{run} has no talks; a run of --policy zoom keeps them, item by item. "
            f"'viscot bench show {run} ITEM' shows an item of any run, with its prompts."
        )
