"""``viscot infer``: ask about one image, a document, a folder, a glob or a JSONL of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.grouped import grouped
from viscot_cli.model_options import ModelOptions, print_answer
from viscot_cli.zoom_options import ZoomOptions, strategy_of
from viscot_core.errors import PartlyDone, UsageError, ViscotError

if TYPE_CHECKING:
    from viscot_core.ask import Strategy, VisualCoT
    from viscot_core.infer.answer_file import AnswerFile
    from viscot_core.infer.items import InferItem


@grouped
def infer(
    image: Annotated[
        str,
        typer.Argument(
            help="An image, PDF, folder, quoted glob, FILE.jsonl of {image, question}, or - (stdin)."
        ),
    ],
    question: Annotated[str | None, typer.Argument(help="What to ask (a JSONL brings its own).")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per answer and line.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Append the answers to this JSONL; what it has is not asked again."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Draw box, crop and answer: FILE.png, or a folder for many.")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="One turn, without box and crop.")] = False,
    box: Annotated[
        str | None, typer.Option(help="Where to look: x0,y0,x1,y1 in pixels; the model does not choose.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also the folders of a folder.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Questions that run together (8, fewer of large images).")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="zoom: append every talk with its looks to this JSONL.")
    ] = None,
    zoom: ZoomOptions,
    model_options: ModelOptions,
) -> None:
    """Ask a question about an image: the box the model looks at, the crop, and the answer."""
    from viscot_core.engines.open import model_name
    from viscot_core.files import expanded
    from viscot_core.infer.answer_file import AnswerFile
    from viscot_core.infer.asking import BATCH, open_item, record_key
    from viscot_core.infer.items import collect
    from viscot_core.infer.saving import places_to_save

    if not direct and box is None:
        zoom = zoom.for_model(model_options.options())
    strategy = _strategy(zoom, direct)
    if trace is not None and strategy != "zoom":
        raise UsageError("--trace writes the talks of the zoom loop; add --policy zoom.")
    where = None if box is None else _corners(box, strategy)
    found = collect(image, question, recursive=recursive)
    items = found.items
    if found.note:
        console.say(found.note)
    places = dict(zip(items, places_to_save(items, save), strict=True)) if save is not None else {}
    if len(items) == 1 and not json and out is None and items[0].error is None:
        open_item(items[0])  # a bad path is reported before a model is loaded
    asking = _Asking(model_options, strategy, batch_size, where, json, len(items) > 1, trace)
    boxes = strategy == "cot"
    if out is None:
        asking.ask(model_options.open(batch_size or BATCH, boxes=boxes, zoom=zoom), items, places)
        return
    with AnswerFile(expanded(out)) as file:
        name = model_name(model_options.options())
        keys = [record_key(item, strategy, name, where) for item in items]
        items = file.remaining(items, keys)
        if not items:
            model_options.check(boxes=boxes, zoom=zoom)
            console.say(f"{out} has {len(keys)} of {len(keys)} answers already: nothing is left to ask")
            return
        if len(items) < len(keys):
            console.say(f"{out} has {len(keys) - len(items)} of {len(keys)} answers already")
        cot = model_options.open(batch_size or BATCH, boxes=boxes, zoom=zoom)
        asking.ask(cot, items, places, file, before=len(keys) - len(items))


@dataclass(frozen=True)
class _Asking:
    """How the items are asked, and what is shown of each result."""

    options: ModelOptions
    strategy: Strategy
    batch_size: int | None
    box: tuple[float, ...] | None
    json: bool
    many: bool
    trace: Path | None = None

    def ask(
        self,
        cot: VisualCoT,
        items: Sequence[InferItem],
        places: Mapping[InferItem, Path],
        file: AnswerFile | None = None,
        before: int = 0,
    ) -> None:
        """Ask and show; ``before`` items were answered earlier. Raises the error that gives the exit code."""
        from viscot_core.data.traces.trace import append_trace
        from viscot_core.files import expanded
        from viscot_core.infer.asking import ask_items
        from viscot_core.infer.saving import save_drawing

        errors: list[str] = []
        cut = 0
        for result in ask_items(
            cot,
            items,
            batch_size=self.batch_size,
            strategy=self.strategy,
            max_new_tokens=self.options.max_new_tokens,
            box=self.box,
            # A server is asked where it is shown: words for people do not tell it.
            logprobs=True if self.json or file is not None else None,
        ):
            record = result.record(cot.engine.name)
            if self.trace is not None and result.answer is not None:
                append_trace(expanded(self.trace), result.trace(cot.zoom))
            if file is not None:
                file.write(record)
            if self.json:
                console.emit(record)
            else:
                print_answer(result, with_name=self.many)
            cut += result.answer is not None and result.answer.truncated
            if result.error is not None:
                errors.append(result.error)
                if self.many:
                    console.say(result.error)
            elif result.item in places:
                save_drawing(result, places[result.item])
                console.say(f"saved {places[result.item]}")
        if cut and self.many:
            console.say(f"{cut} of {len(items)} answers were cut off: see --max-new-tokens")
        _report(errors, before + len(items))


def _strategy(zoom: ZoomOptions, direct: bool) -> Strategy:
    """How to look. Raises UsageError where two options say different things."""
    strategy = strategy_of(zoom)
    if direct and zoom.policy not in (None, "direct"):
        raise UsageError(f"--policy {zoom.policy} looks, --direct never; give one of them.")
    return "direct" if direct else strategy


def _corners(text: str, strategy: Strategy) -> tuple[float, ...]:
    from viscot_core.ask import check_corners

    if strategy == "direct":
        raise UsageError("--box shows the model its crop, --direct shows none; give one of them.")
    if strategy == "zoom":
        raise UsageError("--box says where to look, --policy zoom lets the model say it; give one of them.")
    try:
        corners = tuple(float(part) for part in text.strip("[]() ").split(","))
    except ValueError:
        corners = ()
    if len(corners) != 4:
        raise UsageError(f"--box is x0,y0,x1,y1 in pixels of the image, such as 20,30,120,90, not '{text}'.")
    check_corners(corners)
    return corners


def _report(errors: list[str], count: int) -> None:
    """Raise the error that gives the exit code: 1 where all failed, 3 where some did."""
    if errors and count == 1:
        raise ViscotError(errors[0])
    if errors and len(errors) == count:
        raise ViscotError(f"None of the {count} questions has an answer; the reasons are above.")
    if errors:
        raise PartlyDone(f"{len(errors)} of {count} questions have no answer; the reasons are above.")
