"""What the commands that ask a model share: its options, opening it, and an answer in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.asking import Asked
    from viscot_core.chain import VisualCoT
    from viscot_core.engines.open import EngineOptions

Model = Annotated[
    str | None, typer.Option(help="A name of 'viscot models list', a folder, a hub id, http://HOST/v1#NAME.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
LoadIn = Annotated[str | None, typer.Option(help="4bit or 8bit (needs viscot[quant]).")]
Attn = Annotated[str, typer.Option(help="sdpa, flash (needs viscot[flash]) or eager.")]
MaxNew = Annotated[int, typer.Option(min=1, help="Longest box and answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Nucleus of sampling, with a temperature.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling.")]


def open_chain(
    options: EngineOptions, *, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
) -> VisualCoT:
    """Load a model for asking; without a name the bundled one, with a line that says what it knows.

    ``http://HOST:PORT/v1#NAME`` is a server of a viscot model, which runs the chain's turns.
    """
    from viscot_core.errors import UsageError
    from viscot_core.models.zoo import BUNDLED, RECOMMENDED, resolve

    if not options.is_server:
        resolve(options.model)  # a typo is told before torch is imported
    from viscot_core.chain import VisualCoT
    from viscot_core.engines.local import Sampling
    from viscot_core.engines.open import codec_for, open_engine

    sampling = Sampling(temperature, top_p, seed)
    if codec_for(options).name != "viscot":
        raise UsageError(
            f"{options.model} does not write boxes as viscot's models do; ask it with: viscot bench cot."
        )
    if options.model is None:
        console.say(
            f"No --model: using the bundled {BUNDLED}, which only knows viscot's synthetic pictures; "
            f"for real ones: --model {RECOMMENDED}"
        )
    return VisualCoT(open_engine(options, sampling))


def show(asked: Asked, *, with_name: bool) -> None:
    """Print one answer for people."""
    answer = asked.answer
    if answer is None:
        return
    if with_name:
        console.out(f"{asked.item.image}: {asked.item.question}")
    console.out(f"answer  {answer.text}")
    if answer.strategy == "cot":
        pixels = ", ".join(f"{c:.0f}" for c in answer.box.to_original(answer.size).clip(answer.size).coords)
        status = "" if answer.status == "ok" else f"  ({answer.status}: the model said {answer.box_text!r})"
        console.out(f"box     {pixels}  (pixels: left, top, right, bottom){status}")
        console.out(f"crop    {', '.join(map(str, answer.crop))}  of {answer.size[0]} x {answer.size[1]}")
