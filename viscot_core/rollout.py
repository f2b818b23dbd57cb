"""The one loop from questions to answers: every command that asks a model anything runs it.

All open steps are asked together, then all that follow from them, until every question has its answer. A step
that several questions share (the same words about the same images: two strategies of one item begin so) is
asked once where equal requests get equal texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial

from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.policies.base import Answer, Look, Policy, Question, Step

OnText = Callable[[int, str], None]
"""``(number of the question, its answer so far)``; it is not called with the words of a region."""
OnLook = Callable[[int, Look], None]
"""``(number of the question, the region that was named)``; called before the crop is answered."""
CANCELLED = "cancelled"
"""The error of a question that ``cancelled`` left without an answer."""


def run(
    policy: Policy | Sequence[Policy],
    engine: Engine,
    questions: Sequence[Question],
    *,
    on_text: OnText | None = None,
    on_look: OnLook | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Answer]:
    """One answer per question, in order; ``policy`` is one for all, or one for each.

    A step that fails ends its question without another call: its answer has ``error`` and the looks so far.
    ``cancelled`` is passed on to the engine and read between the steps: once it is True, no further step is
    asked. An answer that was under way keeps its text so far (``finished`` is False); every other open
    question ends with the error ``CANCELLED``.

    Raises:
        EngineError: nothing can be generated at all; what was asked in this call is lost.
    """
    policies = list(policy) if isinstance(policy, Sequence) else [policy] * len(questions)
    pairs = enumerate(zip(policies, questions, strict=True))
    steps = {number: each.start(question) for number, (each, question) in pairs}
    answers: dict[int, Answer] = {}
    spent = dict.fromkeys(steps, (0, 0.0))
    for number, step in steps.items():
        _report_looks(on_look, number, (), step.looks)
    while steps:
        if cancelled is not None and cancelled():
            answers |= {n: _failed(policies[n], step, CANCELLED, transient=True) for n, step in steps.items()}
            break
        start = time.perf_counter()
        generations = _generate(engine, steps, on_text, cancelled)
        share = (time.perf_counter() - start) / len(steps)
        # Read once for all: a text that came back after it turned True may have been cut off.
        stopped = cancelled is not None and cancelled()
        following: dict[int, Step] = {}
        for number, step in steps.items():
            tokens, seconds = spent[number]
            spent[number] = tokens + generations[number].tokens, seconds + share
            outcome = _after(policies[number], step, generations[number], stopped=stopped)
            _report_looks(on_look, number, step.looks, outcome.looks)
            if isinstance(outcome, Step):
                following[number] = outcome
            else:
                answers[number] = outcome
        steps = following
    return [
        replace(answers[number], tokens=tokens, seconds=seconds)
        for number, (tokens, seconds) in spent.items()
    ]


def _after(policy: Policy, step: Step, generation: Generation, *, stopped: bool) -> Step | Answer:
    if generation.error is not None:
        return _failed(policy, step, generation.error, transient=generation.transient)
    outcome = policy.next(step, generation.text)
    if isinstance(outcome, Answer):
        return replace(outcome, finished=generation.finished)
    # The words of a region may have been cut off: what was read of them is not to be reported.
    return _failed(policy, step, CANCELLED, transient=True) if stopped else outcome


def _failed(policy: Policy, step: Step, error: str, *, transient: bool) -> Answer:
    size = step.question.size
    return Answer("", size, step.looks, policy.name, error=error, transient=transient, finished=False)


def _report_looks(on_look: OnLook | None, number: int, before: Sequence[Look], now: Sequence[Look]) -> None:
    if on_look is not None:
        for look in now[len(before) :]:
            on_look(number, look)


def _generate(
    engine: Engine,
    steps: dict[int, Step],
    on_text: OnText | None,
    cancelled: Callable[[], bool] | None,
) -> dict[int, Generation]:
    """A generation for each open step; equal steps are asked once, and all their questions get the text."""
    sharing: dict[Hashable, list[int]] = {}
    for number, step in steps.items():
        # Texts that depend on chance are asked for each question: one draw must not count as several.
        sharing.setdefault(_key(step) if engine.traits.deterministic else number, []).append(number)
    requests = [_request(steps[numbers[0]], numbers, on_text, cancelled) for numbers in sharing.values()]
    generations = engine.generate(requests)
    return {
        number: generation
        for numbers, generation in zip(sharing.values(), generations, strict=True)
        for number in numbers
    }


def _key(step: Step) -> Hashable:
    images = tuple(view.key for view in step.images)
    # `answers` too: a region's words are not streamed, an answer's are, so they cannot share a request.
    return (step.messages, images, step.max_new_tokens, step.stop, step.answers)


def _request(
    step: Step, numbers: Sequence[int], on_text: OnText | None, cancelled: Callable[[], bool] | None
) -> Request:
    return Request(
        step.messages,
        step.images,
        step.max_new_tokens,
        step.stop,
        on_text=partial(_pass_on, on_text, numbers) if on_text is not None and step.answers else None,
        cancelled=cancelled,
    )


def _pass_on(on_text: OnText, numbers: Sequence[int], text: str) -> None:
    for number in numbers:
        on_text(number, text)


def replay(policy: Policy, question: Question, texts: Sequence[str]) -> tuple[list[Step], Answer | None]:
    """The steps of a question whose texts were recorded, in order, and its answer if the texts suffice.

    No engine is asked: this is how a recorded answer is shown or measured again.
    """
    recorded = iter(texts)
    steps: list[Step] = []
    outcome: Step | Answer = policy.start(question)
    while isinstance(outcome, Step):
        steps.append(outcome)
        text = next(recorded, None)
        if text is None:
            return steps, None
        outcome = policy.next(outcome, text)
    return steps, outcome
