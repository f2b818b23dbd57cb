"""``viscot demo``: a web page to try a model on."""

from __future__ import annotations

from typing import Annotated

import typer

from viscot_cli import console
from viscot_cli.grouped import grouped
from viscot_cli.model_options import Protocol, WhoAnswers, open_model
from viscot_cli.zoom_options import ZoomOptions, loop_beside_cot


@grouped
def demo(
    who: WhoAnswers,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 7860,
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = "127.0.0.1",
    protocol: Protocol = "paper",
    *,
    zoom: ZoomOptions,
) -> None:
    """A web page: drop an image, ask, see the box, the crop and the answer as they come.

    It compares cot with direct, answers about a box that you draw, and stores nothing.
    """
    from viscot_cli.serve import who_can_connect
    from viscot_core.demo.backend import DemoBackend
    from viscot_core.demo.page import build, launch
    from viscot_core.hardware import return_large_blocks
    from viscot_core.models.zoo import hint_about
    from viscot_core.serve.batching import Batcher
    from viscot_core.serve.listen import listen
    from viscot_core.serve.settings import LOOPBACK

    return_large_blocks()
    listen(host, port).close()  # a port in use is reported before a model is loaded
    asked = who.options()
    zoom = zoom.for_model(asked)
    cot = open_model(asked, protocol=protocol, zoom=zoom)
    loop = loop_beside_cot(zoom, cot)
    batcher = Batcher(cot.engine, batch=8)
    try:
        shown = f"[{host}]" if ":" in host else host
        console.say(f"{cot.engine.name}: open http://{shown}:{port} (stop with Ctrl-C)")
        console.say(
            who_can_connect(host in LOOPBACK, False, host).replace(" (--api-key-env asks for one)", "")
        )
        backend = DemoBackend(batcher, cot.wording, zoom=loop)
        launch(build(backend, cot.engine.name, hint_about(who.model)), host, port)
    finally:
        batcher.close()
