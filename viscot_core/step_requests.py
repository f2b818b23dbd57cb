"""From open steps to an engine's requests: a step that several questions share is asked once.

Two strategies of one item begin with the same words about the same images; where equal requests get equal
texts, one request is enough. Texts that depend on chance are asked for each question.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from viscot_core.conversation import answer_so_far, final_words
from viscot_core.engines.base import DrawCount, Engine, Generation, Request, Sampling, draw_of
from viscot_core.policies.base import Step

OnText = Callable[[int, str], None]
"""``(number of the question, its answer so far)``; it is not called with the words of a region."""
NO_TEXT = "the prompt has a damaged character (no valid Unicode)"
"""The error of a question with words that no model can be asked."""


@dataclass(frozen=True, slots=True)
class StepRequests:
    """How every step of a call of the rollout is asked of ``engine``."""

    engine: Engine
    sampling: Sampling | None
    logprobs: bool
    on_text: OnText | None
    cancelled: Callable[[], bool] | None
    draws: DrawCount
    numbers: dict[int, int] = field(default_factory=dict)
    """Which draw each question is, in all its steps; none where equal requests get equal texts."""

    def number(self, question: int, first: Step) -> None:
        """Say which draw a question is, by its first step, where its texts depend on chance."""
        if not self._repeats(first):
            drawn = first.question.draw
            self.numbers[question] = self._counted(first) if drawn is None else drawn

    def _counted(self, first: Step) -> int:
        """Questions with other words or images draw other numbers, and the n-th of equal ones its own."""
        asked, before = first.question, self.draws.next(_key(first), self.sampling)
        return draw_of(asked.text, *(view.key for view in asked.images), before)

    def generate(self, steps: Mapping[int, Step], asked: set[int]) -> dict[int, Generation]:
        """A generation for each open step; equal steps are asked once, and all their questions get the text.

        ``asked`` are the questions whose step before was asked too, and which announced this one.

        Raises:
            EngineError: nothing can be generated at all.
        """
        done = {
            number: Generation("", 0, False, NO_TEXT) for number, step in steps.items() if not _is_text(step)
        }
        sharing: dict[Hashable, list[int]] = {}
        for number, step in steps.items():
            if number in done:
                continue
            # Texts that depend on chance are asked for each question: one draw must not count as several.
            sharing.setdefault(_key(step) if self._repeats(step) else number, []).append(number)
        requests = [
            replace(
                self._request(steps[numbers[0]], numbers),
                # A region's words are never the last: at least the answer follows.
                follow_ups=sum(not steps[number].answers for number in numbers),
                reserved=len(asked.intersection(numbers)),
            )
            for numbers in sharing.values()
        ]
        generations = self.engine.generate(requests) if requests else []
        return done | {
            number: generation
            for numbers, generation in zip(sharing.values(), generations, strict=True)
            for number in numbers
        }

    def _repeats(self, step: Step) -> bool:
        """Whether equal requests get equal texts."""
        sampling = step.sampling or self.sampling
        return self.engine.traits.deterministic if sampling is None else sampling.greedy

    def _request(self, step: Step, numbers: Sequence[int]) -> Request:
        """A step of the questions with these numbers."""
        told = self.on_text if step.answers else None
        return Request(
            step.messages,
            step.images,
            step.max_new_tokens,
            step.stop,
            step.sampling or self.sampling,
            self.logprobs,
            step.top_logprobs,
            step.attention,
            tools=step.tools,
            draw=self.numbers.get(numbers[0]),
            on_text=None if told is None else partial(_pass_on, told, numbers),
            cancelled=self.cancelled,
        )


def _is_text(step: Step) -> bool:
    """Whether all words can be encoded: neither a tokenizer nor a server takes half a surrogate pair, and one
    such question would end its whole batch."""
    try:
        for message in step.messages:
            message.text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(step: Step) -> Hashable:
    images = tuple(view.key for view in step.images)
    # `answers` too: a region's words are not streamed, an answer's are, so they cannot share a request.
    asked = (step.tools, step.sampling, step.top_logprobs, step.attention)
    return (step.messages, images, step.max_new_tokens, step.stop, step.answers, asked)


def _pass_on(on_text: OnText, numbers: Sequence[int], text: str) -> None:
    if (answer := answer_so_far(text)) is not None:
        for number in numbers:
            on_text(number, final_words(answer))
