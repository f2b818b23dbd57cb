"""``viscot demo``: a web page to try a model on."""

from __future__ import annotations

from typing import Annotated

import typer

from viscot_cli import console


def demo(
    model: Annotated[
        str | None, typer.Option(help="A folder, a hub id or a name of 'viscot models list'.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the page is.")] = 7860,
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    load_in: Annotated[str | None, typer.Option(help="4bit or 8bit (needs viscot[quant]).")] = None,
    attn: Annotated[str, typer.Option(help="sdpa, flash (needs viscot[flash]) or eager.")] = "sdpa",
) -> None:
    """A web page: drop a picture, ask, watch the box appear, the crop open and the answer come.

    Compares looking closer with answering at once, takes a box you drag, and stores nothing.
    """
    from viscot_cli.infer import open_chain
    from viscot_cli.serve import reach
    from viscot_core.demo.page import build, launch
    from viscot_core.demo.talk import Talk
    from viscot_core.serve.batching import Batcher
    from viscot_core.serve.run import listen
    from viscot_core.serve.settings import LOOPBACK

    listen(host, port).close()  # a taken port is told before a model is loaded
    engine = open_chain(model, device, dtype, load_in, attn, 0.0, 1.0, 0).engine
    batcher = Batcher(engine, batch=8)
    try:
        shown = f"[{host}]" if ":" in host else host
        console.say(f"{engine.name}: open http://{shown}:{port} (Ctrl-C leaves)")
        console.say(reach(host in LOOPBACK, False, host).replace(" (--api-key-env asks for one)", ""))
        launch(build(Talk(batcher), engine.name), host, port)
    finally:
        batcher.close()
