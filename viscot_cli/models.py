"""``viscot models``: list, pull, push, inspect and export checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.help import Commands
from viscot_cli.model_options import Base

if TYPE_CHECKING:
    from viscot_core.models.known import ZooModel

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="List, pull, push, inspect and export models.",
)


@app.command("list")
def list_models(
    family: Annotated[str | None, typer.Option(help="Only models of this family, like qwen3-vl.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One object per line.")] = False,
) -> None:
    """List the known models by family: size, disk, memory, license, and whether they are here."""
    from viscot_core.errors import check_choice
    from viscot_core.models.known import ZOO
    from viscot_core.models.zoo import families, location

    if family is not None:
        check_choice("--family", family, families())
    shown = [model for model in ZOO.values() if family in (None, model.family)]
    if json:
        for model in shown:
            console.emit(_facts(model, location(model)))
        return
    rows: list[tuple[str, ...]] = []
    for name, group in groupby(shown, key=lambda model: model.family):
        models = list(group)
        rows.append((f"{name}{_about(models)}", "", "", "", ""))
        rows += [_row(model, location(model)) for model in models]
    console.table(("model", "size", "disk", "memory", "license"), rows)
    console.say(
        "disk and memory in GB; memory: an estimate for 16 / 8 / 4 bits a weight. * is on this machine.\n"
        "Download one: viscot models pull NAME. What fits this machine: viscot doctor"
    )


def _about(models: Sequence[ZooModel]) -> str:
    """What the models of a family share, behind its name."""
    said = ["can think"] * all(model.thinks for model in models)
    said += ["gated"] * all(model.gated for model in models)
    said += ["no answers"] * all(model.kind == "tower" for model in models)
    return f" ({', '.join(said)})" if said else ""


def _row(model: ZooModel, where: Path | None) -> tuple[str, ...]:
    parameters = model.parameters
    memory = [gigabytes for bits in (16, 8, 4) if (gigabytes := model.gpu_gb(bits)) is not None]
    return (
        f"{' ' if where is None else '*'} {model.name}",
        # Three digits are more than most pages say.
        "-" if parameters is None else f"{parameters:g}B" if parameters >= 0.1 else f"{parameters * 1e3:g}M",
        "-" if model.disk_gb is None else f"{model.disk_gb:g}",
        "/".join(f"{each:.0f}" if each >= 10 else f"{each:g}" for each in memory)
        if memory and model.kind != "tower"
        else "-",
        # The name of the license alone fits a terminal; --json has all of it.
        (model.license or "-").partition(" Community")[0],
    )


def _facts(model: ZooModel, where: Path | None) -> dict[str, object]:
    parameters = None if model.parameters is None else round(model.parameters * 1e9)
    return {
        "name": model.name,
        "hub": model.hub,
        "kind": model.kind,
        "family": model.family,
        "parameters": parameters,
        "side": model.side,
        "license": model.license,
        "thinks": model.thinks,
        "gated": model.gated,
        "disk_gb": model.disk_gb,
        "gpu_gb": {str(bits): model.gpu_gb(bits) for bits in (32, 16, 8, 4)},
        "path": None if where is None else str(where),
        "source": model.source,
    }


@app.command()
def pull(name: Annotated[str, typer.Argument(help="A name of 'viscot models list', or ORG/NAME.")]) -> None:
    """Download a model into the Hugging Face cache; the same command continues a stopped download."""
    from viscot_core.models.pull import pull as fetch

    folder = fetch(name, say=console.say)
    console.out(str(folder))


@app.command()
def push(
    name: Annotated[str, typer.Argument(help="The name on the hub, ORG/NAME.")],
    folder: Annotated[Path, typer.Argument(help="A checkpoint: a finished run, an adapter, an export.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public, where it is new.")
    ] = False,
) -> None:
    """Upload a checkpoint to the hub with a model card; the token is HF_TOKEN."""
    from viscot_core.models.push import push as upload

    console.out(upload(name, folder, public=public, say=console.say))


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


@app.command("serve-command")
def serve_command(
    model: Annotated[str, typer.Argument(help="A folder, a hub id or a name.")],
    server: Annotated[str, typer.Option("--for", help="vllm, sglang or transformers.")] = "vllm",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where it is to be served.")] = "auto",
    images: Annotated[
        int, typer.Option(min=1, help="Most images in a prompt: 2 for two turns, more for --policy zoom.")
    ] = 2,
) -> None:
    """Print the command that serves a model so that viscot gets its own answers from it."""
    from viscot_core.models.serve_command import commands

    lines, address = commands(model, server, device=device, images=images)
    for line in lines:
        console.out(line)
    console.say(f"Then: viscot infer photo.jpg QUESTION --model {address}")


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
