"""``viscot demo``: a web page to try models on."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.grouped import Names, grouped, names_of
from viscot_cli.model_options import HowLoaded, Protocol, open_model
from viscot_cli.zoom_options import ZoomOptions, loop_beside_cot

if TYPE_CHECKING:
    from viscot_core.demo.models import DemoModel, Ready


@grouped
def demo(
    model: Annotated[
        Names,
        typer.Option(
            help="A name of 'viscot models list', a folder, a hub id, http://HOST/v1#NAME; several to choose "
            "among, separated by commas."
        ),
    ] = None,
    *,
    how: HowLoaded,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 7860,
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = "127.0.0.1",
    protocol: Protocol = "paper",
    zoom: ZoomOptions,
) -> None:
    """A web page: drop an image or a PDF, ask, see the box, the crop and the answer as they come.

    It compares cot with direct and one model with others, answers about a box that you draw, and stores
    nothing. The first of several models is loaded at once, each of the others with its first question.
    """
    from viscot_core.addresses import check_proxies

    check_proxies()  # Gradio makes HTTP clients while it is imported
    from viscot_cli.serve import who_can_connect
    from viscot_core.demo.backend import DemoBackend
    from viscot_core.demo.page import build, launch
    from viscot_core.hardware import return_large_blocks
    from viscot_core.serve.listen import listen
    from viscot_core.serve.settings import LOOPBACK

    return_large_blocks()
    listen(host, port).close()  # a port in use is reported before a model is loaded
    models = _models(tuple(dict.fromkeys(names_of(model))) or (None,), how, protocol, zoom)
    try:
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join(each.label for each in models)
        console.say(f"{names}: open http://{shown}:{port} (stop with Ctrl-C)")
        console.say(
            who_can_connect(host in LOOPBACK, False, host).replace(" (--api-key-env asks for one)", "")
        )
        launch(build(DemoBackend(models)), host, port)
    finally:
        for each in models:
            each.close()


def _models(
    names: tuple[str | None, ...], how: HowLoaded, protocol: str, zoom: ZoomOptions
) -> list[DemoModel]:
    """The models that can be used: servers and the first one of this machine are ready.

    Raises:
        ViscotError: none can be used; where there are several, why was said for each.
    """
    from viscot_core.addresses import without_password
    from viscot_core.errors import ViscotError

    if len(names) > 1 and how.box_format is not None:
        console.say(f"--box-format {how.box_format} is used for all {len(names)} models.")
    found: list[DemoModel] = []
    failed: list[ViscotError] = []
    for name in names:
        try:
            model = _model(name, how, protocol, zoom, taken={each.label for each in found})
            if not model.memory or not any(each.memory for each in found):
                # One model's error ends the command, which explains it as the other commands do.
                _ = model.load() if len(names) == 1 else model.ready()
        except ViscotError as error:
            if len(names) == 1:
                raise
            console.say(f"{without_password(name or '')} is left out: {error}")
            # Its frames hold what was loaded so far, and the next model needs that memory.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            failed.append(error)
            continue
        found.append(model)
        if len(names) > 1:
            state = "is ready" if model.is_ready else "is loaded with its first question"
            console.say(f"{model.label} {state}{f' ({model.memory})' if model.memory else ''}.")
    if not found:
        raise failed[0]
    return found


def _model(
    name: str | None, how: HowLoaded, protocol: str, zoom: ZoomOptions, taken: Collection[str]
) -> DemoModel:
    """A model by its own name, or by the one that was given where another one is called the same."""
    from viscot_core.addresses import without_password
    from viscot_core.demo.models import DemoModel
    from viscot_core.models.load import expect
    from viscot_core.models.zoo import hint_about

    asked = how.options_for(name)
    asked.check()

    def opens() -> Ready:
        from viscot_core.demo.models import Ready
        from viscot_core.serve.batching import Batcher

        own = zoom.for_model(asked)
        cot = open_model(asked, protocol=protocol, zoom=own)
        return Ready(Batcher(cot.engine, batch=8), cot.wording, loop_beside_cot(own, cot))

    def labelled(own: str) -> str:
        return without_password(name) if name is not None and own in taken else own

    hint = hint_about(name)
    if asked.is_server:
        return DemoModel(labelled(asked.address()[1]), opens, hint=hint)
    expected = partial(expect, name, device=how.device, dtype=how.dtype, load_in=how.load_in, base=how.base)
    found = expected()
    in_ram = found.device == "cpu" and how.engine == "transformers"  # vLLM's own process says what it lacks
    return DemoModel(labelled(found.name), opens, weigh=lambda: expected().weights, in_ram=in_ram, hint=hint)
