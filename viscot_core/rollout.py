"""The one loop from questions to answers: every command that asks a model anything runs it.

All open steps are asked together, then all that follow from them, until every question has its answer. A step
that two questions share (the same words about the same images, as two strategies of one item begin) is asked
once where the engine's text does not depend on chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial

from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.policies.base import Answer, Look, Policy, Question, Step

OnText = Callable[[int, str], None]
"""``(number of the question, its answer so far)``; the words of a region are not told."""
OnLook = Callable[[int, Look], None]
"""``(number of the question, the region that was named)``, told before the crop is answered."""


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

    Raises:
        EngineError: nothing can be generated at all; what was asked in this call is lost.
    """
    policies = list(policy) if isinstance(policy, Sequence) else [policy] * len(questions)
    answers: dict[int, Answer] = {}
    spent = dict.fromkeys(range(len(questions)), (0, 0.0))
    steps = {number: each.start(question) for number, (each, question) in _numbered(policies, questions)}
    for number, step in steps.items():
        _tell(on_look, number, (), step.looks)
    while steps:
        start = time.perf_counter()
        said = _ask(engine, steps, on_text, cancelled)
        share = (time.perf_counter() - start) / len(steps)
        following: dict[int, Step] = {}
        for number, step in steps.items():
            generation = said[number]
            tokens, seconds = spent[number]
            spent[number] = tokens, seconds = tokens + generation.tokens, seconds + share
            then = _after(policies[number], step, generation)
            _tell(on_look, number, step.looks, then.looks)
            if isinstance(then, Step):
                following[number] = then
            else:
                answers[number] = replace(then, tokens=tokens, seconds=seconds)
        steps = following
    return [answers[number] for number in range(len(questions))]


def _numbered(
    policies: Sequence[Policy], questions: Sequence[Question]
) -> enumerate[tuple[Policy, Question]]:
    return enumerate(zip(policies, questions, strict=True))


def _after(policy: Policy, step: Step, said: Generation) -> Step | Answer:
    if said.error is None:
        then = policy.next(step, said.text)
        return then if isinstance(then, Step) else replace(then, finished=said.finished)
    return Answer(
        "",
        step.question.size,
        step.looks,
        policy.name,
        error=said.error,
        transient=said.transient,
        finished=False,
    )


def _tell(on_look: OnLook | None, number: int, before: Sequence[Look], now: Sequence[Look]) -> None:
    if on_look is not None:
        for look in now[len(before) :]:
            on_look(number, look)


def _ask(
    engine: Engine,
    steps: dict[int, Step],
    on_text: OnText | None,
    cancelled: Callable[[], bool] | None,
) -> dict[int, Generation]:
    """A generation for each open step; equal steps are asked once, and all their questions hear the text."""
    sharing: dict[Hashable, list[int]] = {}
    for number, step in steps.items():
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
    return (step.messages, images, step.max_new_tokens, step.stop, step.answers)


def _request(
    step: Step, numbers: Sequence[int], on_text: OnText | None, cancelled: Callable[[], bool] | None
) -> Request:
    return Request(
        step.messages,
        step.images,
        step.max_new_tokens,
        step.stop,
        on_text=partial(_tell_all, on_text, numbers) if on_text is not None and step.answers else None,
        cancelled=cancelled,
    )


def _tell_all(on_text: OnText, numbers: Sequence[int], text: str) -> None:
    for number in numbers:
        on_text(number, text)


def replay(policy: Policy, question: Question, texts: Sequence[str]) -> tuple[list[Step], Answer | None]:
    """The steps of a question whose texts are on record, in order, and its answer if they reach that far.

    Asks no engine: this is how a recorded answer is shown again, or measured again.
    """
    said = iter(texts)
    steps: list[Step] = []
    then: Step | Answer = policy.start(question)
    while isinstance(then, Step):
        steps.append(then)
        text = next(said, None)
        if text is None:
            return steps, None
        then = policy.next(then, text)
    return steps, then
