"""One request's work, in its own thread: decode the pictures, run the chain on a session, tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from viscot_core.boxes import CropPolicy
from viscot_core.chain import Answer, Look, Question, VisualCoT
from viscot_core.engines.base import Request
from viscot_core.errors import EngineError
from viscot_core.images import view_of
from viscot_core.prompts import render
from viscot_core.serve.batching import Session
from viscot_core.serve.errors import ApiError
from viscot_core.serve.pictures import decode
from viscot_core.serve.wire import Asked, Said

Tell = Callable[[Look], None]


def work(
    asked: Asked, pictures: Sequence[bytes], session: Session, policy: CropPolicy, max_pixels: int, tell: Tell
) -> Said:
    """Answer a checked request; ``tell`` hears of the region as soon as it is known.

    Raises:
        ApiError: a bad picture; a prompt the model cannot take; an engine that is gone (503).
    """
    # A raw prompt's pictures are annotated data or views a client already turned upright.
    images = [decode(data, max_pixels=max_pixels, exif=asked.way != "raw") for data in pictures]
    try:
        with session:
            if asked.way == "raw":
                return _raw(asked, images, session)
            return _ask(asked, images[0], VisualCoT(session, policy), session, tell)
    except EngineError as error:
        raise ApiError(503, str(error), "engine_unavailable", headers={"Retry-After": "5"}) from error


def _raw(asked: Asked, images: Sequence[Image.Image], session: Session) -> Said:
    views = tuple(view_of(image) for image in images)
    rendered = render(asked.turns, session.template, generate=True)
    (said,) = session.generate([Request(rendered, views, asked.max_new_tokens)])
    _check(said.error)
    return Said(said.text, said.finished, session.prompt_tokens, session.new_tokens)


def _ask(asked: Asked, image: Image.Image, chain: VisualCoT, session: Session, tell: Tell) -> Said:
    prepared = chain.prepare([Question(image, asked.question)])
    if asked.way == "direct":
        (answer,) = chain.ask_many(
            [Question(image, asked.question)], strategy="direct", max_new_tokens=asked.max_new_tokens
        )
    else:
        look = chain.look_at(prepared[0], asked.box) if asked.box is not None else chain.look(prepared)[0]
        _check(look.error)
        tell(look)
        (answer,) = chain.answer([look], max_new_tokens=asked.max_new_tokens)
    return _said(answer, session)


def _said(answer: Answer, session: Session) -> Said:
    _check(answer.error)
    return Said(answer.text, session.finished, session.prompt_tokens, session.new_tokens, answer)


def _check(error: str | None) -> None:
    if error is not None:
        raise ApiError(400, f"The model cannot take this: {error}.", "not_answerable", param="messages")
