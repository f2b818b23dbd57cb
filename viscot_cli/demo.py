"""``viscot demo``: a web page to try a model on."""

from __future__ import annotations

from typing import Annotated

import typer

from viscot_cli import console
from viscot_cli.asking import Attn, Device, Dtype, LoadIn, open_chain


def demo(
    model: Annotated[
        str | None, typer.Option(help="A folder, a hub id or a name of 'viscot models list'.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the page is.")] = 7860,
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = "127.0.0.1",
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
) -> None:
    """A web page: drop an image, ask, watch the box appear, the crop open and the answer come.

    Compares looking closer with answering at once, takes a box you drag, and stores nothing.
    """
    from viscot_cli.serve import reach
    from viscot_core.demo.page import build, launch
    from viscot_core.demo.talk import Talk
    from viscot_core.engines.open import EngineOptions
    from viscot_core.serve.batching import Batcher
    from viscot_core.serve.run import listen
    from viscot_core.serve.settings import LOOPBACK

    listen(host, port).close()  # a taken port is told before a model is loaded
    engine = open_chain(EngineOptions(model, device, dtype, load_in, attn)).engine
    batcher = Batcher(engine, batch=8)
    try:
        shown = f"[{host}]" if ":" in host else host
        console.say(f"{engine.name}: open http://{shown}:{port} (Ctrl-C leaves)")
        console.say(reach(host in LOOPBACK, False, host).replace(" (--api-key-env asks for one)", ""))
        launch(build(Talk(batcher), engine.name), host, port)
    finally:
        batcher.close()
