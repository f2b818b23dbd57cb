"""The one loop from questions to answers: every command that asks a model anything runs it.

All open steps are asked together, then all that follow from them, until every question has its answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from viscot_core.boxes.geometry import Size
from viscot_core.conversation import split_thought, unwrapped
from viscot_core.engines.base import DrawCount, Engine, Generation, Sampling
from viscot_core.errors import UsageError
from viscot_core.policies.base import Answer, Look, Policy, Question, Step
from viscot_core.policies.training_free.attention import NO_MAPS
from viscot_core.step_requests import OnText, StepRequests

OnLook = Callable[[int, Look], None]
"""``(number of the question, the region that was named)``; called before the crop is answered."""
CANCELLED = "cancelled"
"""The error of a question that ``cancelled`` left without an answer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model said in one step: ``text`` is what the policy reads, a thought stands apart.

    ``truncated``: the token limit cut it, or its thought did not come to an end. ``probability`` is the mean
    one of its words' tokens (`mean_probability`), None where it is not known; ``seen`` is the size in which
    the model saw the first image, likewise. ``likeliest`` are the likeliest first tokens, where asked for.
    """

    text: str
    thought: str = ""
    tokens: int = 0
    seconds: float = 0.0
    truncated: bool = False
    probability: float | None = None
    seen: Size | None = None
    prompt_tokens: int = 0
    likeliest: tuple[tuple[str, float], ...] = ()


OnTurn = Callable[[int, Turn], None]
"""``(number of the question, what was said)``; called for each turn that another one follows."""


def run(
    policy: Policy | Sequence[Policy],
    engine: Engine,
    questions: Sequence[Question],
    *,
    on_text: OnText | None = None,
    on_look: OnLook | None = None,
    cancelled: Callable[[], bool] | None = None,
    said: Mapping[int, Sequence[Turn]] | None = None,
    on_turn: OnTurn | None = None,
    sampling: Sampling | None = None,
    draws: DrawCount | None = None,
    logprobs: bool | None = None,
) -> list[Answer]:
    """One answer per question, in order; ``policy`` is one for all, or one for each.

    A step that fails ends its question without another call: its answer has ``error`` and the looks so far.
    ``cancelled`` is passed on to the engine and read between the steps: once it is True, no further step is
    asked. An answer that was under way keeps its text so far (``finished`` is False); every other open
    question ends with the error ``CANCELLED``. ``said`` are the first turns of questions that were begun
    earlier, as ``on_turn`` was told them: they are not asked again.

    ``sampling`` is how tokens are chosen, instead of the engine's own way. Each question draws with numbers
    of its own, whichever are open together: they follow from its words, its images and how often it was asked
    before; ``draws`` counts that over several calls. A question that says which draw it is
    (``Question.draw``) keeps to it.
    ``logprobs`` asks how likely the words were; without it they are asked for where that costs nothing (an
    engine that is not paid).

    Raises:
        EngineError: nothing can be generated at all; what was asked in this call is lost.
        UsageError: a policy needs what this engine does not tell.
    """
    policies = list(policy) if isinstance(policy, Sequence) else [policy] * len(questions)
    answers = dict(
        stream(
            zip(policies, questions, strict=True),
            engine,
            on_text=on_text,
            on_look=on_look,
            cancelled=cancelled,
            said=said,
            on_turn=on_turn,
            sampling=sampling,
            draws=draws,
            logprobs=logprobs,
        )
    )
    return [answers[number] for number in range(len(questions))]


def stream(
    asked: Iterable[tuple[Policy, Question]],
    engine: Engine,
    *,
    width: int | None = None,
    on_text: OnText | None = None,
    on_look: OnLook | None = None,
    cancelled: Callable[[], bool] | None = None,
    said: Mapping[int, Sequence[Turn]] | None = None,
    on_turn: OnTurn | None = None,
    sampling: Sampling | None = None,
    draws: DrawCount | None = None,
    logprobs: bool | None = None,
) -> Iterator[tuple[int, Answer]]:
    """``(number, answer)`` of each question as it is finished; all else as ``run`` says.

    At most ``width`` questions are open at a time (None: all): whenever one is finished the next one is taken
    from ``asked``, so that the engine has a full batch although some questions look once and some six times.
    """
    waiting = enumerate(asked)
    policies: dict[int, Policy] = {}
    turns: dict[int, list[Turn]] = {}
    steps: dict[int, Step] = {}
    begun: set[int] = set()
    wanted = logprobs if logprobs is not None else engine.traits.logprobs and not engine.traits.paid
    requests = StepRequests(engine, sampling, wanted, on_text, cancelled, draws or DrawCount())
    while True:
        for number, (policy, question) in islice(waiting, None if width is None else width - len(steps)):
            policies[number] = policy
            first = policy.start(question)
            if first.attention is not None and not engine.traits.attention:
                raise UsageError(NO_MAPS)
            requests.number(number, first)
            steps[number], turns[number] = _begin(policy, first, (said or {}).get(number, ()))
            _report_looks(on_look, number, (), steps[number].looks)
            if turns[number]:
                begun.add(number)
        if not steps:
            return
        if cancelled is not None and cancelled():
            for number, step in steps.items():
                failed = _failed(policies[number], step, CANCELLED, transient=True)
                yield number, _whole(failed, turns[number])
            return
        start = time.perf_counter()
        announced = {number for number in steps if turns[number] and number not in begun}
        generations = requests.generate(steps, announced)
        begun.clear()
        share = (time.perf_counter() - start) / len(steps)
        # Read once for all: a text that came back after it turned True may have been cut off.
        stopped = cancelled is not None and cancelled()
        finished: list[tuple[int, Answer]] = []
        for number, step in list(steps.items()):
            turn = _turn(generations[number], share, step)
            turns[number].append(turn)
            outcome = _after(policies[number], step, generations[number], turn, stopped=stopped)
            _report_looks(on_look, number, step.looks, outcome.looks)
            if isinstance(outcome, Step):
                steps[number] = outcome
                if on_turn is not None:
                    on_turn(number, turn)
            else:
                del steps[number], policies[number]
                finished.append((number, _whole(outcome, turns.pop(number))))
        yield from finished


def _begin(policy: Policy, step: Step, said: Sequence[Turn]) -> tuple[Step, list[Turn]]:
    """The first step that is to be asked, and the turns before it."""
    turns: list[Turn] = []
    for turn in said:
        outcome = policy.next(_heard(step, turn), turn.text)
        # An answer has nothing left to ask: its last turn is asked once more.
        if not isinstance(outcome, Step):
            break
        step = outcome
        turns.append(turn)
    return step, turns


def _turn(generation: Generation, seconds: float, step: Step) -> Turn:
    """A generation without its thought, which a server sends apart or the text holds between marks.

    A policy that reads the ``whole`` text finds the thought in it too. One that asks for likely first tokens
    wants no further ones: its reply is not cut off, unless a thought left no room for it. The first tokens of
    a thought say nothing about the reply. Of one that asks for attention no word is read.
    """
    spoken = split_thought(generation.text)
    text = unwrapped(spoken.text) if generation.thought else spoken.text
    thought = "\n".join(part for part in (generation.thought, spoken.thought) if part)
    begun = bool(step.top_logprobs) and bool(text or not thought)
    cut = not spoken.ended or (generation.truncated and not begun)
    return Turn(
        generation.text if step.whole else text,
        thought,
        generation.tokens,
        seconds,
        truncated=cut and step.attention is None,
        probability=mean_probability(generation),
        seen=generation.seen,
        prompt_tokens=generation.prompt_tokens,
        likeliest=() if thought else generation.top_logprobs,
    )


def _heard(step: Step, turn: Turn) -> Step:
    """The step with what the engine told beside the words."""
    return replace(step, likeliest=turn.likeliest) if turn.likeliest else step


def mean_probability(generation: Generation) -> float | None:
    """How sure the model was of its words, 0..1: the geometric mean of their tokens' probabilities.

    Its thought does not count; None where the engine told nothing, or no words were said.
    """
    words = (generation.logprobs or ())[generation.thought_tokens :]
    return math.exp(sum(words) / len(words)) if words else None


def _whole(answer: Answer, turns: Sequence[Turn]) -> Answer:
    """An answer with what all its turns came to."""
    thoughts = tuple(turn.thought for turn in turns)
    return replace(
        answer,
        truncated=answer.error is None and any(turn.truncated for turn in turns),
        thoughts=thoughts if any(thoughts) else (),
        tokens=sum(turn.tokens for turn in turns),
        seconds=sum(turn.seconds for turn in turns),
        prompt_tokens=sum(turn.prompt_tokens for turn in turns),
        probabilities=tuple(turn.probability for turn in turns),
        costs=tuple((turn.tokens, turn.seconds) for turn in turns),
        seen=next((turn.seen for turn in turns), None),
    )


def _after(policy: Policy, step: Step, generation: Generation, turn: Turn, *, stopped: bool) -> Step | Answer:
    if generation.error is not None:
        return _failed(policy, step, generation.error, transient=generation.transient)
    heard = replace(_heard(step, turn), ids=generation.ids or (), attended=generation.attention)
    outcome = policy.next(heard, turn.text)
    if isinstance(outcome, Answer):
        return replace(outcome, finished=generation.finished and not turn.truncated)
    # The words of a region may have been cut off: what was read of them is not to be reported.
    return _failed(policy, step, CANCELLED, transient=True) if stopped else outcome


def _failed(policy: Policy, step: Step, error: str, *, transient: bool) -> Answer:
    said = step.messages if step.whole else ()
    answer = Answer("", step.question.size, step.looks, policy.name, messages=said, refusals=step.refusals)
    return replace(answer, error=error, transient=transient, finished=False)


def _report_looks(on_look: OnLook | None, number: int, before: Sequence[Look], now: Sequence[Look]) -> None:
    if on_look is not None:
        for look in now[len(before) :]:
            on_look(number, look)


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
