"""Several looks at each item through the rollout, what each of them earns, and the pairs that follow.

The words of the region are drawn at a temperature; the answer after each of them is greedy, so that a score
differs by the look and not by the luck of the answer. Where no reward reads the answer, none is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from viscot_core.engines.base import Engine, Sampling
from viscot_core.images.view import View
from viscot_core.policies.base import Answer, Question, Step
from viscot_core.policies.given_box import GivenBox
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.rollout import run
from viscot_core.runs.opening import LoadedItem, open_items
from viscot_core.tasks.base import Item
from viscot_core.train.preferences.pairs import PairMessage, PreferencePair
from viscot_core.train.rewards.attempt import Attempt, attempt_of_answer
from viscot_core.train.rewards.named import Earned, Weighted, earn

AT_ONCE = 8
"""Items whose looks are asked together."""


@dataclass(frozen=True)
class FirstLook:
    """The first step of ``two_turn`` alone: the answer is the region's words, with their look."""

    two_turn: TwoTurn
    name: str = "first_look"

    def start(self, question: Question) -> Step:
        """Where to look."""
        return self.two_turn.start(question)

    def next(self, step: Step, text: str) -> Answer:
        """The region's words as they are, and what would be shown of them."""
        shown = self.two_turn.next(step, text)
        return Answer(text, step.question.size, shown.looks, self.name)


@dataclass(frozen=True, slots=True)
class ScoredLook:
    """One of an item's looks: its words, the answer after it (where one was asked), its reward.

    ``cut``: the token limit ended its words, or the answer.
    """

    text: str
    answer: Answer
    earned: Earned
    cut: bool


@dataclass(frozen=True, slots=True)
class ItemLooks:
    """All looks at one item; ``error`` says why there are none."""

    item: Item
    prompt: tuple[PairMessage, ...]
    looks: tuple[ScoredLook, ...] = ()
    error: str | None = None


@dataclass
class PairCounts:
    """What became of the items: pairs made, those whose looks all earn the same, those without a whole
    reply of known reward (``unknown``), and failed ones."""

    items: int = 0
    pairs: int = 0
    equal: int = 0
    unknown: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)


def looks_at(
    items: Sequence[Item],
    engine: Engine,
    two_turn: TwoTurn,
    rewards: Sequence[Weighted],
    *,
    boxes: int,
    sampling: Sampling,
    max_new_tokens: int = 128,
) -> Iterator[ItemLooks]:
    """``boxes`` looks at each item, and what each earns.

    Raises:
        EngineError: nothing can be generated.
    """
    reads_answer = any(one.reads_answer for one in rewards)
    for start in range(0, len(items), AT_ONCE):
        loaded = open_items(items[start : start + AT_ONCE])
        asked = [(one, one.view) for one in loaded if one.view is not None]
        questions = [
            Question(one.item.question, (view,), max_new_tokens=max_new_tokens) for one, view in asked
        ]
        # Numbers of their own: with the same ones at every item, a look would be moved alike in all of them,
        # and the pairs would teach that move.
        first = start * boxes
        many = [
            replace(question, draw=first + place * boxes + number)
            for place, question in enumerate(questions)
            for number in range(boxes)
        ]
        named = run(FirstLook(two_turn), engine, many, sampling=sampling)
        answered = _answers(engine, two_turn, many, named) if reads_answer else named
        groups = {
            id(one): (named[k * boxes : (k + 1) * boxes], answered[k * boxes : (k + 1) * boxes])
            for k, (one, _) in enumerate(asked)
        }
        for one in loaded:
            yield _scored(one, two_turn, rewards, *groups.get(id(one), ((), ())))


def _answers(
    engine: Engine, two_turn: TwoTurn, questions: Sequence[Question], named: Sequence[Answer]
) -> list[Answer]:
    """The greedy answer after each look, with that look in place of the given one; a failed look as it is."""
    given = GivenBox(two_turn.wording, two_turn.crop_policy)
    good = [number for number, answer in enumerate(named) if answer.error is None and answer.looks]
    asked = [
        replace(questions[number], box=named[number].looks[0].box, box_text=named[number].text, draw=None)
        for number in good
    ]
    found = list(named)
    for number, answer in zip(good, run(given, engine, asked, sampling=Sampling()), strict=True):
        found[number] = replace(answer, looks=named[number].looks)
    return found


def _scored(
    loaded: LoadedItem,
    two_turn: TwoTurn,
    rewards: Sequence[Weighted],
    named: Sequence[Answer],
    answers: Sequence[Answer],
) -> ItemLooks:
    item = loaded.item
    if not named:
        return ItemLooks(item, (), error=loaded.error or "no image")
    problem = next((answer.error for answer in (*named, *answers) if answer.error is not None), None)
    prompt = _prompt(two_turn, item, loaded.view)
    if problem is not None:
        return ItemLooks(item, prompt, error=problem)
    group = [_attempt(item, answer) for answer in answers]
    scored = [
        ScoredLook(said.text, answer, earned, said.truncated or answer.truncated)
        for said, answer, earned in zip(named, answers, earn(rewards, group), strict=True)
    ]
    return ItemLooks(item, prompt, tuple(scored))


def _attempt(item: Item, answer: Answer) -> Attempt:
    return attempt_of_answer(answer, item.question, reference=item.reference, box=item.box)


def _prompt(two_turn: TwoTurn, item: Item, view: View | None) -> tuple[PairMessage, ...]:
    assert view is not None
    step = two_turn.start(Question(item.question, (view,)))
    return tuple(PairMessage(role=m.role, content=m.text) for m in step.messages)


def pair_of_looks(found: ItemLooks, counts: PairCounts, *, margin: float) -> PreferencePair | None:
    """The best look against the worst, where they are ``margin`` apart; what became of it is counted.

    A reply that the token limit cut is never preferred. Among equal ones the first drawn is taken.
    """
    counts.items += 1
    if found.error is not None:
        counts.failed += 1
        counts.reasons.append(f"{found.item.name}: {found.error}")
        return None
    known = [(look, look.earned.total) for look in found.looks if look.earned.total is not None]
    whole = [(look, total) for look, total in known if not look.cut]
    if not whole:
        counts.unknown += 1
        return None
    best, most = max(whole, key=lambda one: one[1])
    worst, least = min(known, key=lambda one: one[1])
    if most - least < margin or best.text == worst.text:
        counts.equal += 1
        return None
    counts.pairs += 1
    return PreferencePair(
        id=found.item.name,
        images=(found.item.image,),
        prompt=found.prompt,
        chosen=(PairMessage(role="assistant", content=best.text),),
        rejected=(PairMessage(role="assistant", content=worst.text),),
        scores={"chosen": round(most, 6), "rejected": round(least, 6)},
    )


def pairs_of(
    looks: Iterator[ItemLooks],
    counts: PairCounts,
    *,
    margin: float,
    progress: Callable[[int], None] | None = None,
) -> Iterator[PreferencePair]:
    """The pairs of all items, in order."""
    for found in looks:
        if (pair := pair_of_looks(found, counts, margin=margin)) is not None:
            yield pair
        if progress is not None:
            progress(1)
