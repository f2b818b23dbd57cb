"""``viscot infer``: ask about one image, a folder, a glob or a JSONL of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.asking import Asking, show
from viscot_cli.grouped import grouped
from viscot_core.errors import PartlyDone, ViscotError

if TYPE_CHECKING:
    from viscot_core.chain import Strategy


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
    asking: Asking,
) -> None:
    """Ask a question about an image: the box the model looks at, the crop, and the answer."""
    from viscot_core.asking import ask_items, collect, places_to_save, save_drawing
    from viscot_core.images.reading import open_image

    items = collect(image, question)
    places = places_to_save(items, save) if save is not None else None
    if len(items) == 1 and not json:
        open_image(items[0].image, exif=True)  # a bad path is told before a model is loaded
    chain = asking.open(batch_size)
    strategy: Strategy = "direct" if direct else "cot"
    answers = ask_items(
        chain, items, batch_size=batch_size, strategy=strategy, max_new_tokens=asking.max_new_tokens
    )
    errors: list[str] = []
    for number, asked in enumerate(answers):
        if json:
            console.emit(asked.record(chain.engine.name))
        else:
            show(asked, with_name=len(items) > 1)
        if asked.error is not None:
            errors.append(asked.error)
            if len(items) > 1:
                console.say(asked.error)
        elif places is not None:
            save_drawing(asked, places[number])
            console.say(f"saved {places[number]}")
    _report(errors, len(items))


def _report(errors: list[str], count: int) -> None:
    """Raise what the exit code follows from: all failed (1) or some (3)."""
    if errors and count == 1:
        raise ViscotError(errors[0])
    if len(errors) == count:
        raise ViscotError(f"None of the {count} questions has an answer; the reasons stand above.")
    if errors:
        raise PartlyDone(f"{len(errors)} of {count} questions have no answer; the reasons stand above.")
