"""``viscot tour``: three images, then a small benchmark, with the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console


def tour(
    save: Annotated[Path, typer.Option(help="Where the annotated images go.")] = Path("results/tour"),
    questions: Annotated[int, typer.Option(min=1, help="Questions of the small benchmark.")] = 24,
    model: Annotated[str | None, typer.Option(help="Another model than the bundled one.")] = None,
) -> None:
    """Three images (question, box, answer, drawing), then cot, direct and gt-box side by side."""
    from viscot_core import load
    from viscot_core.models.known import BUNDLED
    from viscot_core.models.zoo import RECOMMENDED
    from viscot_core.report.choices import Format
    from viscot_core.tour import MORE, ask_examples, small_bench

    if model is None:
        console.say(
            f"The bundled {BUNDLED} only knows viscot's synthetic images; for real ones: "
            f'viscot infer photo.jpg "..." --model {RECOMMENDED}'
        )
    for example, result, target in ask_examples(load(model), save):
        console.out(f"\n{example.image.name}: {example.question}")
        if result.answer is None:
            console.out(f"  no answer: {result.error}")
            continue
        right = "right" if result.answer.text.strip() == example.answer else f"wrong, it is {example.answer}"
        read = "" if result.answer.status == "ok" else f", {result.answer.status}"
        console.out(f"  looks at  {result.answer.box_text}  (left, top, right, bottom; 0..1{read})")
        console.out(f"  answers   {result.answer.text}  ({right})")
        console.out(f"  drawn in  {target}")

    console.say(f"\nA small benchmark: {questions} new images, one question each, three ways to look.")
    with console.progress("Asking", total=3 * questions) as advance:
        done = 0

        def progress(finished: int, _: int) -> None:
            nonlocal done
            advance(finished - done)
            done = finished

        report = small_bench(model, questions, progress=progress)
    console.out("\n" + report.to_text(Format.TABLE))
    console.out(
        "\ncot: the model names the box itself. direct: it answers from the whole image at once. "
        "gt-box: it is given the true box.\nThe same on 500 questions, about a minute:\n  "
        + "\n  ".join(MORE)
    )
