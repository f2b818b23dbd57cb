"""``viscot infer``: ask about one picture, a folder, a glob or a JSONL of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.asking import Asked
    from viscot_core.chain import Strategy, VisualCoT
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


def infer(
    picture: Annotated[
        str, typer.Argument(help="A picture, a folder, a quoted glob, or FILE.jsonl of {image, question}.")
    ],
    question: Annotated[str | None, typer.Argument(help="What to ask (a JSONL brings its own).")] = None,
    model: Model = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per answer and line.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Draw box, crop and answer: FILE.png, or a folder for many.")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="One turn, without box and crop.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions that run together.")] = 8,
    max_new_tokens: MaxNew = 128,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
) -> None:
    """Ask a question about a picture: the box the model looks at, the crop, and the answer."""
    from viscot_core.asking import ask_items, collect
    from viscot_core.errors import ImageError, PartlyDone

    items = collect(picture, question)
    if len(items) == 1:
        from viscot_core.images import open_image

        open_image(items[0].image, exif=True)  # a bad path is told before a model is loaded
    chain = open_chain(model, device, dtype, load_in, attn, temperature, top_p, seed, batch_size)
    failed = 0
    strategy: Strategy = "direct" if direct else "cot"
    for asked in ask_items(
        chain, items, batch_size=batch_size, strategy=strategy, max_new_tokens=max_new_tokens
    ):
        if json:
            console.emit(asked.record(chain.engine.name))
        elif asked.answer is not None:
            show(asked, with_name=len(items) > 1)
        if asked.answer is None:
            failed += 1
            if len(items) == 1:
                raise ImageError(str(asked.error))
            console.say(f"{asked.item.image}: {asked.error}")
        elif save is not None:
            _save(asked, save, many=len(items) > 1)
    if failed:
        raise PartlyDone(f"{failed} of {len(items)} questions have no answer; the reasons stand above.")


def open_chain(
    model: str | None,
    device: str,
    dtype: str,
    load_in: str | None,
    attn: str,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int = 8,
) -> VisualCoT:
    """Load a model for asking; without a name the bundled one, with a line that says what it knows."""
    from viscot_core.engines.open import EngineOptions
    from viscot_core.models.zoo import BUNDLED, RECOMMENDED, resolve

    if (options := EngineOptions(model)).is_server:
        return _over_http(options, temperature)
    resolve(model)  # a typo is told before torch is imported
    from viscot_core.chain import VisualCoT
    from viscot_core.engines.local import LocalEngine, Sampling
    from viscot_core.models.load import load_model

    sampling = Sampling(temperature, top_p, seed)
    if model is None:
        console.say(
            f"No --model: using the bundled {BUNDLED}, which only knows viscot's synthetic pictures; "
            f"for real ones: --model {RECOMMENDED}"
        )
    loaded = load_model(model, device=device, dtype=dtype, load_in=load_in, attn=attn)
    return VisualCoT(LocalEngine(loaded, batch_size=batch_size, sampling=sampling))


def _over_http(options: EngineOptions, temperature: float) -> VisualCoT:
    """A chain whose turns are run by a server of a viscot model: ``http://HOST:PORT/v1#NAME``."""
    from viscot_core.chain import VisualCoT
    from viscot_core.engines.open import codec_for, open_engine
    from viscot_core.errors import UsageError

    if codec_for(options).name != "viscot":
        raise UsageError(
            f"{options.model} does not write boxes as viscot's models do; ask it with: viscot bench cot."
        )
    if temperature > 0:
        raise UsageError("A server decides how tokens are chosen; leave out --temperature.")
    return VisualCoT(open_engine(options))


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


def _save(asked: Asked, save: Path, *, many: bool) -> None:
    from viscot_core.asking import save_picture

    target = save / f"{asked.item.image.stem}.png" if many or save.is_dir() else save
    save_picture(asked, target)
    console.say(f"saved {target}")
