"""``viscot serve``: an OpenAI-compatible server that answers in two turns."""

from __future__ import annotations

from typing import Annotated

import typer

from viscot_cli import console
from viscot_cli.grouped import Names, grouped, names_of
from viscot_cli.model_options import Protocol, WhoServes, open_model
from viscot_cli.zoom_options import ZoomOptions, loop_beside_cot, strategy_of


@grouped
def serve(
    who: WhoServes,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = "127.0.0.1",
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the key clients must send.")
    ] = None,
    allow_urls: Annotated[
        Names,
        typer.Option(metavar="HOSTS", help="Hosts to download images from, separated by commas [none]."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that run together.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Requests in work or waiting; more get 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds a request may take.")] = 120.0,
    max_body: Annotated[float, typer.Option(min=0.01, help="Largest request, MB.")] = 20.0,
    upload_pixels: Annotated[
        float,
        typer.Option("--max-pixels", min=0.01, help="Largest image that is sent, million pixels."),
    ] = 40.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer a client may ask for.")] = 512,
    protocol: Protocol = "paper",
    *,
    zoom: ZoomOptions,
) -> None:
    """Serve a model over HTTP as OpenAI does: /v1/chat/completions and /v1/models, with /health and /metrics.

    A question with an image is answered in two turns; the reply's extra field "viscot" has box, crop and
    status. Change this in the request with "viscot": {"strategy": "direct"} or {"box": [x0, y0, x1, y1]}.
    With --policy zoom questions are answered by the zoom loop, with --policy direct in one turn.
    """
    import os
    from dataclasses import replace

    from viscot_core.serve.settings import Limits, ServeOptions, api_key_from

    options = ServeOptions(
        host=host,
        port=port,
        api_key=api_key_from(api_key_env, dict(os.environ)),
        allow_urls=names_of(allow_urls),
        limits=Limits(
            body_bytes=int(max_body * 1_000_000),
            pixels=int(upload_pixels * 1_000_000),
            new_tokens=max_new_tokens,
            seconds=timeout,
            queue=queue,
            batch=batch_size,
        ),
    )
    from viscot_core.hardware import return_large_blocks
    from viscot_core.serve.listen import listen, url_of
    from viscot_core.serve.listen import serve as run
    from viscot_core.serve.server import Server

    return_large_blocks()
    with listen(host, port) as listening:  # a port in use is reported before a model is loaded
        asked = who.options(batch_size)
        zoom = zoom.for_model(asked)
        cot = open_model(asked, protocol=protocol, zoom=zoom, fused=True)
        options = replace(options, zoom=loop_beside_cot(zoom, cot), strategy=strategy_of(zoom))

        def on_ready() -> None:
            console.say(f"{cot.engine.name} is served at {url_of(listening)}/v1 (stop with Ctrl-C)")
            console.say(who_can_connect(options.is_local, options.api_key is not None, host))

        run(Server(cot.engine, cot.wording, options), listening, on_ready)


def who_can_connect(is_local: bool, has_key: bool, host: str) -> str:
    """Who can connect, in a sentence."""
    if is_local:
        return "Only programs on this machine can connect; --host 0.0.0.0 opens it to the network."
    key = "with the API key" if has_key else "WITHOUT a key (--api-key-env asks for one)"
    return f"Everybody who reaches {host} can ask, {key}."
