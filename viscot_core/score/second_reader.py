"""A judge model reads what a rule could not read, and some of the rest, to tell how well both agree."""

from __future__ import annotations

import random
from collections.abc import Sequence

from viscot_core.openai_api.budget import Usage
from viscot_core.score.base import Done, Judge
from viscot_core.score.protocols import ProtocolJudge
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State

CHECKED = 50
"""How many of the answers that the rule read are given to the judge too; drawn by a fixed seed."""
_RIGHT = 0.5
"""From this score on the judge calls an answer right: a letter is right or wrong."""


class SecondReader:
    """A judge for the benchmarks: ``first``, a protocol's rule, and ``second`` where the rule reads nothing.

    Where the judge gives no score either, the rule's outcome stands. An answer that it could not be asked
    about stays pending. ``agreed`` of ``checked`` answers that both read got the same verdict.
    """

    def __init__(self, first: ProtocolJudge, second: Judge) -> None:
        self._first, self._second = first, second
        mine, theirs = first.identity, second.identity
        self.identity = JudgeIdentity.now(
            f"{mine.name}+{theirs.name}",
            f"{mine.model}; answers that it cannot read: {theirs.model}",
            theirs.prompt_sha256,
            theirs.temperature,
            theirs.extra_sha256,
        )
        self.read = self.checked = self.agreed = 0

    @property
    def usage(self) -> Usage | None:
        """What the judge model cost, where it counts that."""
        return getattr(self._second, "usage", None)

    def judge(self, pairs: Sequence[Pair], done: Done) -> None:
        """See ``Judge``."""
        by_rule: dict[Pair, Outcome] = {}
        self._first.judge(pairs, by_rule.__setitem__)
        unread = [pair for pair, outcome in by_rule.items() if outcome.reason]
        whole = [pair for pair, outcome in by_rule.items() if not outcome.reason]
        for pair in whole:
            done(pair, by_rule[pair])
        again = set(random.Random(0).sample(whole, min(CHECKED, len(whole)))) if unread else set()

        def told(pair: Pair, outcome: Outcome) -> None:
            said = None if outcome.score is None else float(outcome.score >= _RIGHT)
            if pair in again:
                if said is not None:
                    self.checked += 1
                    self.agreed += said == by_rule[pair].score
            elif said is not None:
                self.read += 1
                done(pair, Outcome(State.SCORED, said, None, outcome.reply))
            elif outcome.state in (State.UNSCORED, State.TRUNCATED):
                done(pair, by_rule[pair])
            else:
                done(pair, outcome)

        if unread:
            self._second.judge([*unread, *again], told)
