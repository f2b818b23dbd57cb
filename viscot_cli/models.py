"""``viscot models``: list, pull, inspect and export checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console
from viscot_cli.help import Commands
from viscot_cli.model_options import Base

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="List, pull, inspect and export models.",
)


@app.command("list")
def list_models(json: Annotated[bool, typer.Option("--json", help="One object per line.")] = False) -> None:
    """List the known models: size, resolution, licence, disk, GPU memory, and whether they are here."""
    from viscot_core.models.zoo import ZOO, location

    rows = []
    for model in ZOO.values():
        where = location(model)
        if json:
            console.emit(
                {
                    "name": model.name,
                    "hub": model.hub,
                    "kind": model.kind,
                    "parameters": round(model.parameters * 1e9),
                    "side": model.side,
                    "license": model.license,
                    "disk_gb": model.disk_gb,
                    "gpu_gb": {str(bits): model.gpu_gb(bits) for bits in (16, 8, 4)},
                    "path": None if where is None else str(where),
                }
            )
        memory = (
            "-" if model.kind == "tower" else " / ".join(f"{model.gpu_gb(bits):g}" for bits in (16, 8, 4))
        )
        size = f"{model.parameters:.2f} B" if model.parameters >= 0.1 else f"{model.parameters * 1e3:.1f} M"
        here = "no" if where is None else "bundled" if model.hub is None else "yes"
        rows.append(
            (
                model.name,
                model.kind,
                size,
                f"{model.side} px",
                f"{model.disk_gb:g} GB",
                memory,
                here,
                model.license,
            )
        )
    if not json:
        columns = (
            "name",
            "kind",
            "size",
            "image",
            "disk",
            "GPU GB",
            "here",
            "licence",
        )
        console.table(columns, rows)
        console.say(
            "GPU GB: in bf16 / 8-bit / 4-bit, estimated from the number of parameters.\n"
            "Download one: viscot models pull NAME"
        )


@app.command()
def pull(name: Annotated[str, typer.Argument(help="A name of 'viscot models list', or ORG/NAME.")]) -> None:
    """Download a model into the Hugging Face cache; the same command continues a stopped download."""
    from viscot_core.models.pull import pull as fetch

    folder = fetch(name, say=console.say)
    console.out(str(folder))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A folder, a pulled hub id or a name.")],
    base: Base = None,
    json: Annotated[bool, typer.Option("--json", help="The report as one object.")] = False,
) -> None:
    """Describe a checkpoint and list every tensor that is missing, unexpected or has the wrong shape."""
    from viscot_core.errors import CheckpointError
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.inspect import inspect as report_on
    from viscot_core.models.zoo import resolve

    report = report_on(open_checkpoint(resolve(model), base))
    if json:
        console.emit(report)
    else:
        total = report.parameters["total"]
        console.out(f"{report.name}  ({report.path})")
        console.out(f"layout        {report.layout}")
        console.out(
            f"parameters    {total:,}"
            + "".join(f"; {part} {count:,}" for part, count in report.parameters.items() if part != "total")
        )
        console.out(f"stored as     {', '.join(f'{name} {n:,}' for name, n in report.dtypes.items())}")
        console.out(f"tower         {report.tower}")
        images = "as many tokens as an image's size asks for"
        if report.image_side is not None:
            images = f"{report.image_side} px, {report.image_tokens} tokens each"
        console.out(f"images        {images}")
        console.out(f"context       {report.context} tokens")
        console.out(f"vocabulary    {report.text_rows} ids in {report.embedding_rows} rows")
        console.out(f"prompts       template {report.template}, turn tokens {report.turn_tokens}")
        for file, size in report.files.items():
            console.out(f"file          {file}  {size:,} bytes")
        for note in report.notes:
            console.out(f"note          {note}")
        for kind in ("missing", "unexpected", "misshaped"):
            for line in getattr(report, kind):
                console.out(f"{kind:13} {line}")
    if not report.whole:
        count = len(report.missing) + len(report.unexpected) + len(report.misshaped)
        raise CheckpointError(f"{report.path} is not complete: {count} tensors do not fit (listed above).")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A folder, a pulled hub id or a name.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    base: Base = None,
    layout: Annotated[
        str, typer.Option(help="hf (transformers, vLLM, SGLang) or llava (the original code).")
    ] = "hf",
    dtype: Annotated[str, typer.Option(help="keep, fp32, fp16 or bf16.")] = "keep",
    vision_tower: Annotated[
        str | None, typer.Option(help="llava: the value of mm_vision_tower, instead of the default.")
    ] = None,
) -> None:
    """Write a checkpoint in another layout or dtype; adapters are merged."""
    from viscot_core.errors import UsageError, nearest
    from viscot_core.families.checkpoint import Layout
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.export import export as write
    from viscot_core.models.export import planned
    from viscot_core.models.zoo import resolve

    try:
        wanted = Layout(layout)
    except ValueError as error:
        raise UsageError(
            f"--layout is hf or llava, not '{layout}'.{nearest(layout, list(Layout))}"
        ) from error
    checkpoint = open_checkpoint(resolve(model), base)
    checkpoint.require_whole()
    total = sum(tensor.nbytes for tensor in planned(checkpoint, wanted, dtype))
    with console.progress("Writing", total=total) as advance:
        folder = write(checkpoint, out, wanted, dtype=dtype, vision_tower=vision_tower, advance=advance)
    size = f"{total / 1e9:.2f} GB" if total >= 1e8 else f"{total / 1e6:.1f} MB"
    console.out(f"{folder}: {layout} layout, {size}")


@app.command("merge-lora")
def merge_lora(
    adapter: Annotated[Path, typer.Argument(help="A folder written by viscot finetune --lora or peft.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    base: Base = None,
    dtype: Annotated[str, typer.Option(help="keep, fp32, fp16 or bf16.")] = "keep",
) -> None:
    """Merge an adapter into its base and write one checkpoint."""
    from viscot_core.errors import UsageError
    from viscot_core.models.adapters import is_adapter

    if not is_adapter(adapter):
        raise UsageError(f"{adapter} has no adapter_config.json; give a folder of --lora training.")
    export(str(adapter), out, base, dtype=dtype)
