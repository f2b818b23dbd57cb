"""``viscot infer``: ask about one image, a folder, a glob or a JSONL of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.grouped import grouped
from viscot_cli.model_options import ModelOptions, print_answer
from viscot_core.errors import PartlyDone, ViscotError

if TYPE_CHECKING:
    from viscot_core.ask import Strategy


@grouped
def infer(
    image: Annotated[
        str, typer.Argument(help="An image, a folder, a quoted glob, or FILE.jsonl of {image, question}.")
    ],
    question: Annotated[str | None, typer.Argument(help="What to ask (a JSONL brings its own).")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per answer and line.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Draw box, crop and answer: FILE.png, or a folder for many.")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="One turn, without box and crop.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions that run together.")] = 8,
    model_options: ModelOptions,
) -> None:
    """Ask a question about an image: the box the model looks at, the crop, and the answer."""
    from viscot_core.images.reading import open_image
    from viscot_core.infer import ask_items, collect, places_to_save, save_drawing

    items = collect(image, question)
    places = places_to_save(items, save) if save is not None else None
    if len(items) == 1 and not json:
        open_image(items[0].image, as_seen=True)  # a bad path is reported before a model is loaded
    cot = model_options.open(batch_size)
    strategy: Strategy = "direct" if direct else "cot"
    limit = model_options.max_new_tokens
    results = ask_items(cot, items, batch_size=batch_size, strategy=strategy, max_new_tokens=limit)
    errors: list[str] = []
    for number, result in enumerate(results):
        if json:
            console.emit(result.record(cot.engine.name))
        else:
            print_answer(result, with_name=len(items) > 1)
        if result.error is not None:
            errors.append(result.error)
            if len(items) > 1:
                console.say(result.error)
        elif places is not None:
            save_drawing(result, places[number])
            console.say(f"saved {places[number]}")
    _report(errors, len(items))


def _report(errors: list[str], count: int) -> None:
    """Raise the error that gives the exit code: 1 where all failed, 3 where some did."""
    if errors and count == 1:
        raise ViscotError(errors[0])
    if len(errors) == count:
        raise ViscotError(f"None of the {count} questions has an answer; the reasons are above.")
    if errors:
        raise PartlyDone(f"{len(errors)} of {count} questions have no answer; the reasons are above.")
