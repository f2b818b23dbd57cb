"""Rules that score the benchmarks of ``tasks.benchmarks``: viscot's own, and public harnesses' bug for bug.

A rule scores the replies of a run again, without a model. It is a judge like any other: its scores stand in
``scores.<protocol>.jsonl`` and are never averaged with those of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from viscot_core.errors import UsageError, check_choice
from viscot_core.score.base import Done
from viscot_core.score.offline import exact
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State
from viscot_core.tasks.answers import public_rules
from viscot_core.tasks.answers.reading import LETTERS, read_choice, read_words
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS, LMMS, VLMEVAL

Scorer = Callable[[Pair], Outcome]
DEFAULT, FIRST_IS_RIGHT = "shuffled", "first-is-right"
_NEEDS_JUDGE = Outcome(State.UNSCORED, None, "the rule reads nothing here; the harness asks a judge model")


def _scored(right: bool) -> Outcome:
    return Outcome(State.SCORED, float(right))


def _unread(reason: str) -> Outcome:
    return Outcome(State.SCORED, 0.0, reason)


def _letter(pair: Pair) -> str:
    """The right letter, as the reference ``B. text`` or ``(B)`` has it."""
    return pair.reference.strip(" (")[:1].upper()


def final_answer(pair: Pair) -> Outcome:
    """The letter or the words of the final answer.

    A reply in which nothing certain can be read is wrong, as an unparsable box is, and its reason is counted.
    """
    letters = pair.options or _letters_of(pair.reference)
    if letters:
        found = read_choice(pair.answer, letters)
        if found.value is None:
            return _unread(found.reason)
        return _scored(found.value == _letter(pair))
    said = read_words(pair.answer)
    if said.value is None:
        return _unread(said.reason)
    return _scored(exact(pair.reference, said.value) == 1.0)


def _letters_of(reference: str) -> tuple[str, ...]:
    """Options without words where the question holds them itself and the answer is a letter (ZoomBench)."""
    return ("",) * len(LETTERS) if re.fullmatch(r"\(?[A-Z]\)?\.?", reference.strip()) else ()


def first_is_right(pair: Pair) -> Outcome:
    """Scripts that never shuffle V*'s options take "A" as right. A constant answer scores 100 % there."""
    if not pair.options:
        return Outcome(State.UNSCORED, None, "the question has no options")
    found = read_choice(pair.answer, pair.options)
    return _scored(found.value == "A")


def deepeyes(pair: Pair) -> Outcome:
    """DeepEyes' rule, before it asks its judge."""
    if not pair.options:
        return _NEEDS_JUDGE
    right = public_rules.deepeyes(pair.answer, pair.options, _letter(pair))
    return _NEEDS_JUDGE if right is None else _scored(right)


def _harness(name: str) -> Scorer:
    def score(pair: Pair) -> Outcome:
        benchmark = BENCHMARKS.get(pair.benchmark)
        rule = dict(benchmark.rules).get(name) if benchmark else None
        if rule is None:
            return Outcome(State.UNSCORED, None, f"{name} has no rule for {pair.benchmark or 'this task'}")
        return _scored(rule(pair.answer, pair.options) == _letter(pair))

    return score


PROTOCOLS: dict[str, Scorer] = {
    DEFAULT: final_answer,
    FIRST_IS_RIGHT: first_is_right,
    LMMS: _harness(LMMS),
    VLMEVAL: _harness(VLMEVAL),
    "deepeyes": deepeyes,
}


def warning_of(protocol: str, order: str | None) -> str | None:
    """Why a protocol's scores mean nothing for a run whose options were asked in ``order``."""
    if protocol == FIRST_IS_RIGHT and order == "shuffled":
        return (
            f"{FIRST_IS_RIGHT} takes A as right, and the options of this run were shuffled: its scores are "
            "those of chance. It is for a run with --order file."
        )
    return None


class ProtocolJudge:
    """One of ``PROTOCOLS`` as a judge. Raises UsageError for an unknown one."""

    def __init__(self, name: str) -> None:
        self._score = PROTOCOLS[check_choice("--protocol", name, PROTOCOLS)]
        self.identity = JudgeIdentity.now(name, name, None, None)

    def judge(self, pairs: Sequence[Pair], done: Done) -> None:
        """Raises UsageError where no question is of a benchmark: other tasks have their own judges."""
        if pairs and not any(pair.benchmark for pair in pairs):
            raise UsageError(
                "A protocol scores the benchmarks of 'viscot bench run'; give --judge for other runs."
            )
        for pair in pairs:
            done(pair, self._score(pair))
