"""One request's work, in its own thread: decode the images, run the chain on a session, tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from viscot_core.boxes.geometry import CropPolicy
from viscot_core.chain import Look, Question, VisualCoT
from viscot_core.engines.base import Request
from viscot_core.errors import EngineError
from viscot_core.families.llava.template import render
from viscot_core.images.view import view_of
from viscot_core.serve.batching import Session
from viscot_core.serve.errors import ApiError
from viscot_core.serve.images import decode
from viscot_core.serve.replies import Said
from viscot_core.serve.requests import Asked

Looked = Callable[[Look], None]
Hear = Callable[[str], None]


def work(
    asked: Asked,
    files: Sequence[bytes],
    session: Session,
    policy: CropPolicy,
    max_pixels: int,
    looked: Looked,
    hear: Hear,
) -> Said:
    """Answer a checked request; ``looked`` is told the region as soon as it is known.

    ``hear`` is told the answer so far, token by token, where the request is for a stream.

    Raises:
        ApiError: a bad image; a prompt the model cannot take; an engine that is gone (503).
    """
    # A raw prompt's images are annotated data or views a client already turned upright.
    images = [decode(data, max_pixels=max_pixels, exif=asked.way != "raw") for data in files]
    on_text = hear if asked.stream else None
    try:
        with session:
            if asked.way == "raw":
                return _raw(asked, images, session, on_text)
            return _ask(asked, images[0], VisualCoT(session, policy), session, looked, on_text)
    except EngineError as error:
        raise ApiError(503, str(error), "engine_unavailable", headers={"Retry-After": "5"}) from error


def _raw(asked: Asked, images: Sequence[Image.Image], session: Session, on_text: Hear | None) -> Said:
    views = tuple(view_of(image) for image in images)
    rendered = render(asked.turns, session.template, generate=True)
    request = Request(rendered, views, asked.max_new_tokens, asked.stop, on_text)
    (said,) = session.generate([request])
    _check(said.error)
    return Said(said.text, said.finished, session.prompt_tokens, session.new_tokens)


def _ask(
    asked: Asked,
    image: Image.Image,
    chain: VisualCoT,
    session: Session,
    looked: Looked,
    on_text: Hear | None,
) -> Said:
    (prepared,) = chain.prepare([Question(image, asked.question)])
    hear = None if on_text is None else lambda _, text: on_text(text)
    if asked.way == "direct":
        (answer,) = chain.direct(
            [prepared], max_new_tokens=asked.max_new_tokens, stop=asked.stop, on_text=hear
        )
    else:
        look = chain.look_at(prepared, asked.box) if asked.box is not None else chain.look([prepared])[0]
        _check(look.error)
        looked(look)
        (answer,) = chain.answer([look], max_new_tokens=asked.max_new_tokens, stop=asked.stop, on_text=hear)
    _check(answer.error)
    return Said(answer.text, session.finished, session.prompt_tokens, session.new_tokens, answer)


def _check(error: str | None) -> None:
    if error is not None:
        raise ApiError(400, f"The model cannot take this: {error}.", "not_answerable", param="messages")
