"""Each reward: a pure function from the attempts at one question (a group) to a value for each of them.

A value is None where the reward cannot be known (no reference, a judge without a verdict): never a 0, which
would teach. A model's own fault (numbers that are not finite, an unreadable region) is a 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from viscot_core.boxes.geometry import Box, BoxStatus, Size, iou
from viscot_core.policies.base import Look
from viscot_core.score.base import Judge
from viscot_core.score.offline import MEASURES, Measure
from viscot_core.score.verdicts import Outcome, Pair
from viscot_core.train.rewards.attempt import Attempt

STEPS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""The gains at which `graded_iou` rises, by a fifth each."""
RIGHT = 0.5
"""An answer of this score or more is right, where a reward asks for a right one."""


@dataclass(frozen=True, slots=True)
class RewardPart:
    """What one reward gives an attempt, and why; ``value`` is None where it cannot be known."""

    value: float | None
    why: str


Reward = Callable[[Sequence[Attempt]], list[RewardPart]]
"""The parts of the attempts at one question, in order."""


def each(one: Callable[[Attempt], RewardPart]) -> Reward:
    """A reward that looks at one attempt at a time."""
    return lambda group: [one(attempt) for attempt in group]


# -- the answer ---------------------------------------------------------------------------------------------


def answer_score(measure: Measure) -> Callable[[Attempt], RewardPart]:
    """How right the answer is, 0..1; without an answer it is 0."""

    def score(attempt: Attempt) -> RewardPart:
        if not (attempt.reference or "").strip():
            return RewardPart(None, "the question has no reference answer")
        if (fault := _unanswered(attempt)) is not None:
            return RewardPart(0.0, fault)
        value = measure(attempt.reference or "", attempt.answer)
        return RewardPart(
            value, f"answered '{_short(attempt.answer)}', wanted '{_short(attempt.reference or '')}'"
        )

    return score


class Judged:
    """The score of a judge, 0..1; None where it came to none.

    The judge is made once, when it is first needed: a recipe that names one is read without its weights.
    """

    def __init__(self, make: Callable[[], Judge]) -> None:
        self._make = make
        self._judge: Judge | None = None

    def open(self) -> Judge:
        """The judge; raises as what makes it does."""
        if self._judge is None:
            self._judge = self._make()
        return self._judge

    def __call__(self, group: Sequence[Attempt]) -> list[RewardPart]:
        known = [bool((attempt.reference or "").strip()) for attempt in group]
        faults = [_unanswered(attempt) for attempt in group]
        pairs = [Pair(a.question, a.reference or "", a.answer) for a in group]
        wanted = [p for p, k, f in zip(pairs, known, faults, strict=True) if k and f is None]
        found: dict[Pair, Outcome] = {}
        if wanted:
            self.open().judge(list(dict.fromkeys(wanted)), found.__setitem__)
        parts = []
        for pair, is_known, fault in zip(pairs, known, faults, strict=True):
            if not is_known:
                parts.append(RewardPart(None, "the question has no reference answer"))
            elif fault is not None:
                parts.append(RewardPart(0.0, fault))
            else:
                outcome = found.get(pair)
                value = outcome.score if outcome else None
                parts.append(RewardPart(value, f"the judge says {outcome.state if outcome else 'nothing'}"))
        return parts


def _unanswered(attempt: Attempt) -> str | None:
    if attempt.stop != "answer":
        return f"there is no answer ({attempt.stop})"
    return None if attempt.answer.strip() else "the answer is empty"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:37]}..."


# -- the region ---------------------------------------------------------------------------------------------


def iou_gain(attempt: Attempt) -> RewardPart:
    """How much better than the whole image the last region is: (IoU - w) / (1 - w), 0 at least.

    w is the IoU of the whole image, so that naming everything earns nothing however large the region is,
    without a threshold to stay below. Several regions in one turn earn the *mean* of their gains: a spray of
    boxes earns less than one box, though one of them fits.
    """
    if attempt.box is None or attempt.size is None:
        return RewardPart(None, "the question has no annotated region")
    wanted = attempt.box.clip(attempt.size)
    if not all(map(math.isfinite, attempt.box.coords)) or wanted.area <= 0:
        return RewardPart(None, "the annotated region is empty or not finite")
    looks, tried = attempt.last
    if not looks:
        return RewardPart(0.0, "no region was named")
    gains = [_gain(look, wanted, attempt.size) for look in looks]
    value = sum(gains) / tried
    several = f", one of {tried} regions in one turn" if tried > 1 else ""
    overlap = max(_overlap(look, wanted) for look in looks)
    whole = wanted.area / (attempt.size[0] * attempt.size[1])
    return RewardPart(value, f"IoU {overlap:.2f} (the whole image: {whole:.2f}){several}")


def graded_iou(attempt: Attempt) -> RewardPart:
    """The gain of `iou_gain` in steps: 0 below 0.5, then a fifth at each of `STEPS`."""
    part = iou_gain(attempt)
    if part.value is None:
        return part
    return RewardPart(sum(part.value >= step for step in STEPS) / len(STEPS), part.why)


def _overlap(look: Look, wanted: Box) -> float:
    box = look.box_pixels
    readable = look.status is not BoxStatus.UNPARSABLE and all(map(math.isfinite, look.box.coords))
    return iou(box, wanted) if readable and look.image == 0 else 0.0


def _gain(look: Look, wanted: Box, size: Size) -> float:
    whole = wanted.area / (size[0] * size[1])
    overlap = _overlap(look, wanted)
    return overlap if whole >= 1 else max(0.0, (overlap - whole) / (1 - whole))


# -- the form -----------------------------------------------------------------------------------------------


def well_formed(attempt: Attempt) -> RewardPart:
    """1 if every turn has the form that was asked for and the talk ended with an answer, else 0."""
    fault = _unanswered(attempt)
    statuses = {look.status for look in attempt.named}
    if fault is None and attempt.late:
        fault = "a call follows the answer"
    if fault is None and attempt.refused:
        fault = f"{len(attempt.refused)} calls could not be made"
    if fault is None and any(look.boxes > 1 for look in attempt.named):
        fault = "one reply names several regions"
    if fault is None and BoxStatus.UNPARSABLE in statuses:
        fault = "a region cannot be read"
    if fault is None and BoxStatus.REPAIRED in statuses:
        fault = "a region is not in the exact form"
    if fault is None and not all(math.isfinite(c) for look in attempt.named for c in look.box.coords):
        fault = "a region has numbers that are not finite"
    return RewardPart(1.0, "every turn is well formed") if fault is None else RewardPart(0.0, fault)


def tool_bonus(measure: Measure) -> Callable[[Attempt], RewardPart]:
    """1 for a right answer after a closer look, else 0: a look without a right answer earns nothing.

    A look at (nearly) the whole image is none, and neither is a call after the answer.
    """
    score = answer_score(measure)

    def bonus(attempt: Attempt) -> RewardPart:
        right = score(attempt)
        if right.value is None:
            return right
        if right.value < RIGHT:
            return RewardPart(0.0, "the answer is wrong")
        looks = attempt.closer
        return RewardPart(
            float(looks > 0), f"right after {looks} closer looks" if looks else "no closer look"
        )

    return bonus


def curiosity(target: float) -> Reward:
    """For an attempt with a closer look: how far the group's share of such attempts is below ``target``.

    It fades out by itself once the model looks often enough (the shape is Pixel Reasoner's, arXiv
    2505.15966).
    """

    def values(group: Sequence[Attempt]) -> list[RewardPart]:
        looked = [attempt.closer > 0 for attempt in group]
        rate = sum(looked) / len(group) if group else 0.0
        missing = max(0.0, target - rate)
        why = f"{sum(looked)} of {len(group)} attempts look closer"
        return [
            RewardPart(missing if one else 0.0, why if one else f"no closer look; {why}") for one in looked
        ]

    return values


def length_cost(most: int) -> Callable[[Attempt], RewardPart]:
    """0 up to half of ``most`` new tokens, then falling evenly to -1 at ``most`` and beyond."""

    def cost(attempt: Attempt) -> RewardPart:
        if attempt.tokens is None:
            return RewardPart(None, "the number of its tokens is not known")
        over = (attempt.tokens - most / 2) / (most / 2)
        return RewardPart(-min(1.0, max(0.0, over)), f"{attempt.tokens} tokens of {most}")

    return cost


HONEST = {name: MEASURES[name] for name in ("exact", "anls", "vqa", "relaxed", "letter")}
"""Measures that an answer cannot satisfy by naming everything (`contains`) or nothing (`yes-no`)."""
