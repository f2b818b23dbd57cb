"""What the commands that ask a model share: its options, opening it, and an answer in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.asking import Asked
    from viscot_core.chain import VisualCoT
    from viscot_core.engines.open import EngineOptions
    from viscot_core.engines.transformers.engine import Sampling

Model = Annotated[
    str | None, typer.Option(help="A name of 'viscot models list', a folder, a hub id, http://HOST/v1#NAME.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
LoadIn = Annotated[str | None, typer.Option(help="4bit or 8bit (needs viscot[quant]).")]
Attn = Annotated[str, typer.Option(help="sdpa, flash (needs viscot[flash]) or eager.")]
MaxNew = Annotated[int, typer.Option(min=1, help="Longest box and answer, in tokens.")]


@dataclass(frozen=True)
class Asking:
    """The model that is asked, how it is loaded, and how it chooses its words."""

    model: Model = None
    max_new_tokens: MaxNew = 128
    device: Device = "auto"
    dtype: Dtype = "auto"
    load_in: LoadIn = None
    attn: Attn = "sdpa"
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0
    top_p: Annotated[float, typer.Option(help="Nucleus of sampling, with a temperature.")] = 1.0
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0

    def open(self, batch_size: int = 8) -> VisualCoT:
        """The chain over this model; ``open_chain`` says what is told and refused."""
        from viscot_core.engines.open import EngineOptions
        from viscot_core.engines.transformers.engine import Sampling

        options = EngineOptions(self.model, self.device, self.dtype, self.load_in, self.attn, batch_size)
        return open_chain(options, Sampling(self.temperature, self.top_p, self.seed))


def open_chain(options: EngineOptions, sampling: Sampling | None = None) -> VisualCoT:
    """Load a model for asking; without a name the bundled one, with a line that says what it knows.

    ``http://HOST:PORT/v1#NAME`` is a server of a viscot model, which runs the chain's turns.
    """
    from viscot_core.errors import UsageError
    from viscot_core.models.zoo import BUNDLED, RECOMMENDED, resolve

    if not options.is_server:
        resolve(options.model)  # a typo is told before torch is imported
    from viscot_core.chain import VisualCoT
    from viscot_core.engines.open import codec_for, open_engine

    if codec_for(options).name != "viscot":
        raise UsageError(
            f"{options.model} does not write boxes as viscot's models do; ask it with: viscot bench cot."
        )
    if options.model is None:
        console.say(
            f"No --model: using the bundled {BUNDLED}, which only knows viscot's synthetic images; "
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
