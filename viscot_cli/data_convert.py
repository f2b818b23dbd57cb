"""``viscot data convert``, and ``viscot data check FILE``: training files of any format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from viscot_cli import console
from viscot_cli.data_rows import SkipBad
from viscot_core.errors import DataError, PartlyDone, UsageError

if TYPE_CHECKING:
    from viscot_core.data.formats.read import Reader

Boxes = Annotated[
    str | None,
    typer.Option(
        "--boxes", metavar="NAME", help="How rows write boxes, like qwen2.5-vl or pixels; default: viscot."
    ),
]


def convert(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="metadata/*_cot_train.jsonl")],
    out: Annotated[Path, typer.Option(help="A JSON list, or JSONL by its ending.")],
    with_reasoning: Annotated[
        bool, typer.Option("--with-reasoning", help="Put the reasoning steps before the answer.")
    ] = False,
    skip_bad: SkipBad = 0,
    boxes: Annotated[
        str | None,
        typer.Option(
            "--convert-boxes",
            metavar="FROM",
            help="Rewrite the boxes of a training file from this format, like pixels or qwen2.5-vl.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="With --to and --convert-boxes: folder of the image paths; default: FILE's."),
    ] = None,
    to: Annotated[
        Literal["llava", "messages", "trace", "verl", "ms-swift"] | None,
        typer.Option(
            help="Write a training file of any format in this layout (docs/data-formats.md); verl and "
            "ms-swift: traces or pairs, for their reinforcement."
        ),
    ] = None,
    row_boxes: Boxes = None,
) -> None:
    """Convert metadata rows to conversations, or a training file to another layout or to other boxes."""
    if to:
        if boxes or with_reasoning:
            raise UsageError("--to does not go with --convert-boxes or --with-reasoning; use --boxes FROM.")
        if to in ("verl", "ms-swift"):
            _export(files, out, to, images)
        else:
            _convert_to(files, out, to, images, row_boxes, skip_bad)
        return
    if row_boxes:
        raise UsageError("--boxes only goes with --to; --convert-boxes rewrites boxes alone.")
    if boxes:
        _convert_boxes(files, out, boxes, images)
        return
    if images:
        raise UsageError("--images only goes with --to and --convert-boxes; give both or neither.")
    from viscot_core.data.convert import convert as run

    with console.progress("rows") as advance:
        done = run(files, out, with_reasoning=with_reasoning, skip_bad=skip_bad, progress=advance)
    console.table(["data set", "rows"], sorted(done.counts.items()), right=["rows"])
    for bad in done.bad:
        console.say(f"skipped: {bad}")
    if done.without_reasoning:
        console.say(f"{done.without_reasoning} rows have no reasoning steps, only an answer.")
    console.say(f"{done.counts.total()} rows in {out}")


def _export(files: Sequence[Path], out: Path, to: Literal["verl", "ms-swift"], images: Path | None) -> None:
    from viscot_core.train.preferences.exports import export

    if len(files) != 1:
        raise UsageError("--to takes one file; call it for each.")
    done = export(files[0], to, out, images or files[0].parent)
    console.out(f"{out}: {done.rows} rows for {to}")
    for reason in done.left_out[:5]:
        console.say(f"left out: {reason}")
    if done.left_out:
        raise PartlyDone(f"{len(done.left_out)} rows of {files[0]} were left out.")


def _convert_to(
    files: Sequence[Path], out: Path, to: str, images: Path | None, boxes: str | None, skip_bad: int
) -> None:
    from viscot_core.data.formats.layouts import RowLayout
    from viscot_core.data.formats.write import convert_rows

    if len(files) != 1:
        raise UsageError("--to takes one training file; call it for each.")
    reader = _reader(files[0], images, boxes, out.parent)
    with console.progress("rows") as advance:
        done = convert_rows(reader, out, RowLayout(to), skip_bad=skip_bad, progress=advance)
    for finding in done.bad:
        console.say(f"skipped: {finding}")
    for what, count in done.lost.items():
        if count:
            console.say(f"not in this layout: {count} {what}")
    stored = f", {len(reader.stored)} images beside it" if reader.stored else ""
    console.say(f"{done.rows} rows in {out}{stored}")


def _reader(file: Path, images: Path | None, boxes: str | None, store: Path | None = None) -> Reader:
    from viscot_core.boxes.registry import codec
    from viscot_core.data.formats.read import Reader

    return Reader(file, images or file.parent, codec(boxes) if boxes else None, store)


def check_rows(file: Path, images: Path | None, boxes: str | None, shown: int) -> None:
    """``viscot data check FILE``."""
    from viscot_core.data.formats.check import check_file, require_images

    reader = _reader(file, images, boxes)
    require_images(reader.images)
    with console.progress("rows") as advance:
        report = check_file(reader, advance)
    facts = {"layout": report.layout.value, "rows": report.rows, "images": report.images}
    facts |= {"answers": report.answers, "of these learned": report.learned}
    console.table(["", "count"], [*facts.items(), *report.notes.items()], right=["count"])
    for finding in report.findings[:shown]:
        console.out(str(finding))
    wrong = report.wrong.total()
    if wrong > shown:
        console.say(f"... and {wrong - min(shown, len(report.findings))} more; --shown N shows N of them.")
    if wrong:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.wrong.most_common())
        faults = "fault" if wrong == 1 else "faults"
        raise DataError(f"{file}: {wrong} {faults} in {report.rows} rows ({kinds}); correct the rows.")
    console.say(f"{file}: {report.rows} rows, every one can be trained on.")


def _convert_boxes(files: Sequence[Path], out: Path, name: str, images: Path | None) -> None:
    from viscot_core.boxes.registry import codec
    from viscot_core.data.convert_boxes import convert_boxes

    if len(files) != 1:
        raise UsageError("--convert-boxes takes one training file; call it for each.")
    (file,) = files
    with console.progress("rows") as advance:
        done = convert_boxes(file, out, codec(name), images or file.parent, progress=advance)
    for unread in done.unread[:10]:
        console.say(unread)
    console.say(f"{done.rows} rows in {out}: {done.boxes} boxes rewritten, {len(done.unread)} not read.")
    if done.unread:
        raise PartlyDone(f"{len(done.unread)} boxes are not of the format {name} and stay as they were.")
