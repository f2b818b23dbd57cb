"""The rewards by name, how a command or a recipe names them with weights, and what a group earns in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from viscot_core.errors import UsageError, check_choice
from viscot_core.score.base import JudgeOptions
from viscot_core.score.judges import check_judge, make_judge
from viscot_core.train.rewards.attempt import Attempt
from viscot_core.train.rewards.parts import (
    HONEST,
    Judged,
    Reward,
    RewardPart,
    answer_score,
    curiosity,
    each,
    graded_iou,
    iou_gain,
    length_cost,
    tool_bonus,
    well_formed,
)


@dataclass(frozen=True, slots=True)
class RewardEntry:
    """A reward: what it is for, what may follow its name after a colon, what it refuses to pay for."""

    summary: str
    argument: str
    refuses: str
    make: Callable[[str], Reward]
    reads_answer: bool = True
    """Whether what is said after the looks changes its value."""


def _answer(argument: str) -> Reward:
    if argument.startswith(("openai:", "hf:")):
        check_judge(argument)
        return Judged(partial(make_judge, argument, JudgeOptions()))
    return each(answer_score(HONEST[check_choice("answer", argument or "exact", HONEST)]))


def _bonus(argument: str) -> Reward:
    return each(tool_bonus(HONEST[check_choice("tool-bonus", argument or "exact", HONEST)]))


def _curiosity(argument: str) -> Reward:
    target = _number("curiosity", argument or "0.5")
    if not 0 < target <= 1:
        raise UsageError(f"curiosity:{argument} is a share of the attempts: write a number from 0 to 1.")
    return curiosity(target)


def _length(argument: str) -> Reward:
    most = _number("length", argument or "512")
    if not 2 <= most < math.inf:
        raise UsageError(f"length:{argument} is a number of tokens: write 2 or more.")
    return each(length_cost(int(most)))


def _plain(name: str, reward: Reward) -> Callable[[str], Reward]:
    def make(argument: str) -> Reward:
        if argument:
            raise UsageError(f"The reward {name} has no settings; write {name} without ':{argument}'.")
        return reward

    return make


REWARDS: dict[str, RewardEntry] = {
    "answer": RewardEntry(
        "how right the answer is, 0..1",
        "exact | anls | vqa | relaxed | letter | openai:MODEL | hf:PATH [exact]",
        "an empty answer, a talk without one",
        _answer,
    ),
    "iou": RewardEntry(
        "how much better than the whole image the last region fits, 0..1",
        "",
        "the whole image, numbers that are not finite; several regions in one turn earn their mean",
        _plain("iou", each(iou_gain)),
        reads_answer=False,
    ),
    "iou-graded": RewardEntry(
        "the same in steps of a fifth from 0.5 on",
        "",
        "as iou",
        _plain("iou-graded", each(graded_iou)),
        reads_answer=False,
    ),
    "format": RewardEntry(
        "1 if every turn has the form that was asked for",
        "",
        "a call after the answer, refused calls, repaired or several regions",
        _plain("format", each(well_formed)),
    ),
    "tool-bonus": RewardEntry(
        "1 for a right answer after a closer look",
        "exact | anls | vqa | relaxed | letter [exact]",
        "a look without a right answer, a look at the whole image",
        _bonus,
    ),
    "curiosity": RewardEntry(
        "more for a closer look, the fewer attempts of the group have one",
        "the share of attempts where it ends [0.5]",
        "a look at the whole image, a call after the answer",
        _curiosity,
    ),
    "length": RewardEntry(
        "0 up to half of the tokens, then down to -1",
        "the most tokens of a talk [512]",
        "long talks",
        _length,
    ),
}


@dataclass(frozen=True, slots=True)
class Weighted:
    """A reward as it was named, and what its value is multiplied by in the total."""

    name: str
    weight: float
    reward: Reward

    @property
    def reads_answer(self) -> bool:
        """Whether what is said after the looks changes its value."""
        return REWARDS[self.name.partition(":")[0]].reads_answer


@dataclass(frozen=True, slots=True)
class Earned:
    """The parts of an attempt by the rewards' names; ``total`` is None if one of them cannot be known."""

    parts: dict[str, RewardPart]
    total: float | None


def rewards_of(spec: str) -> tuple[Weighted, ...]:
    """The rewards of a text such as ``iou,answer:anls=0.5,format=0.1`` (without a weight: 1), with judges.

    Raises:
        UsageError: an unknown name, a setting or a weight that is none, a name that stands twice, a judge
            without its key or its weights.
    """
    found: dict[str, Weighted] = {}
    for words in filter(None, (word.strip() for word in spec.split(","))):
        named, equals, weight = words.rpartition("=")
        name = named if equals else words
        if name in found:
            raise UsageError(f"The reward {name} stands twice; give it one weight.")
        found[name] = weighted(name, _number(name, weight) if equals else 1.0)
    if not found:
        raise UsageError(f"Name at least one reward: {', '.join(REWARDS)}.")
    open_judges(list(found.values()))
    return tuple(found.values())


def open_judges(rewards: Sequence[Weighted]) -> None:
    """Make the judges of rewards that will score. Raises UsageError where a key or weights are missing."""
    for one in rewards:
        if isinstance(one.reward, Judged):
            one.reward.open()


def weighted(name: str, weight: float) -> Weighted:
    """One reward by its name with its setting (``answer:anls``); a judge is not made yet (`open_judges`).

    Raises:
        UsageError: an unknown name, a setting or a weight that is none.
    """
    kind, _, argument = name.partition(":")
    if not math.isfinite(weight) or weight == 0:
        raise UsageError(
            f"The weight of the reward {name} is {weight:g}; write a finite number other than 0."
        )
    return Weighted(name, weight, REWARDS[check_choice("A reward", kind, REWARDS)].make(argument))


def earn(rewards: Sequence[Weighted], group: Sequence[Attempt]) -> list[Earned]:
    """What each attempt at one question earns; of one that failed (``stop`` "error") nothing is known."""
    done = [number for number, attempt in enumerate(group) if attempt.stop != "error"]
    failed = RewardPart(None, "the attempt failed")
    columns: dict[str, list[RewardPart]] = {}
    for one in rewards:
        parts = dict(zip(done, one.reward([group[number] for number in done]), strict=True))
        columns[one.name] = [parts.get(number, failed) for number in range(len(group))]
    weights = {one.name: one.weight for one in rewards}
    earned = []
    for number in range(len(group)):
        row = {name: column[number] for name, column in columns.items()}
        values = [(part.value, weights[name]) for name, part in row.items()]
        # A part that is not known is not 0: such an attempt is left out and counted.
        known = [value * weight for value, weight in values if value is not None]
        earned.append(Earned(row, math.fsum(known) if len(known) == len(values) else None))
    return earned


def without_spread(groups: Sequence[Sequence[float]], tolerance: float = 1e-9) -> int:
    """How many groups of two or more have totals that are all equal: nothing can be learned from them."""
    return sum(len(group) > 1 and max(group) - min(group) <= tolerance for group in groups)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"The reward {name} needs a number, not '{text}'.") from None
