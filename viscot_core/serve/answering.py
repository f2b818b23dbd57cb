"""Answering one request, in a thread of its own: decode its images, run the policy on a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from viscot_core.ask import policy_for, prepare_question
from viscot_core.conversation import answer_so_far, split_thought
from viscot_core.engines.base import Request, Sampling
from viscot_core.errors import EngineError
from viscot_core.images.view import view_of
from viscot_core.policies.base import Look, Policy, Question
from viscot_core.policies.given_box import GivenBox
from viscot_core.policies.wording import Wording
from viscot_core.rollout import run
from viscot_core.serve.batching import Session
from viscot_core.serve.errors import ApiError
from viscot_core.serve.images import decode
from viscot_core.serve.replies import Completion
from viscot_core.serve.requests import CheckedRequest
from viscot_core.serve.settings import ServeOptions

OnText = Callable[[str], None]
OnLook = Callable[[Look], None]


def answer_request(
    request: CheckedRequest,
    files: Sequence[bytes],
    session: Session,
    wording: Wording,
    options: ServeOptions,
    on_look: OnLook,
    on_text: OnText | None,
) -> Completion:
    """Answer a checked request about its image ``files``.

    ``on_look`` is called with the region before the crop is answered, ``on_text`` with the answer so far
    whenever it gets longer.

    Raises:
        ApiError: a bad image; a prompt that the model cannot take; an engine that is gone (503).
    """
    raw = request.strategy == "raw"
    # The images of a raw prompt are annotated data, or images that a client turned upright already.
    images = [decode(data, max_pixels=options.limits.pixels, as_seen=not raw) for data in files]
    try:
        with session:
            if raw:
                views = tuple(map(view_of, images))
                tell = None if on_text is None else partial(_tell_answer, on_text)
                return _continue(
                    session,
                    Request(
                        request.messages,
                        views,
                        request.max_new_tokens,
                        request.stop,
                        request.sampling,
                        draw=0,
                        on_text=tell,
                    ),
                )
            question = prepare_question(
                images[0],
                request.question,
                box=request.box,
                max_new_tokens=request.max_new_tokens,
                stop=request.stop,
            )
            policy = _policy(request, wording, options)
            return _ask(session, policy, question, request.sampling, on_look, on_text)
    except EngineError as error:
        raise ApiError(503, str(error), "engine_unavailable", headers={"Retry-After": "5"}) from error


def _policy(request: CheckedRequest, wording: Wording, options: ServeOptions) -> Policy:
    if request.box is not None:
        return GivenBox(wording, options.crop_policy)
    return policy_for(request.strategy, wording, options.crop_policy, zoom=options.zoom)


def _continue(session: Session, prompt: Request) -> Completion:
    (generation,) = session.generate([prompt])
    _check(generation.error)
    spoken = split_thought(generation.text)
    thought = "\n".join(part for part in (generation.thought, spoken.thought) if part)
    finished = generation.finished and spoken.ended
    return Completion(spoken.text, finished, session.prompt_tokens, session.new_tokens, thought=thought)


def _tell_answer(on_text: OnText, said: str) -> None:
    if (answer := answer_so_far(said)) is not None:
        on_text(answer)


def _ask(
    session: Session,
    policy: Policy,
    question: Question,
    sampling: Sampling | None,
    on_look: OnLook,
    on_text: OnText | None,
) -> Completion:
    (answer,) = run(
        policy,
        session,
        [replace(question, draw=0)],  # with the client's own seed
        on_text=None if on_text is None else lambda _, text: on_text(text),
        on_look=lambda _, look: on_look(look),
        cancelled=session.is_stopped,
        sampling=sampling,
    )
    _check(answer.error)
    thought = "\n".join(filter(None, answer.thoughts))
    tokens = session.prompt_tokens, session.new_tokens
    return Completion(answer.text, answer.finished, *tokens, answer, thought)


def _check(error: str | None) -> None:
    if error is not None:
        raise ApiError(400, f"The model cannot take this: {error}.", "not_answerable", param="messages")
