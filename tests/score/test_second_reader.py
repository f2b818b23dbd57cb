"""A judge model behind a rule: it reads what the rule could not, and how well they agree is told."""

from __future__ import annotations

from collections.abc import Sequence

from viscot_core.errors import EngineError
from viscot_core.score.base import Done
from viscot_core.score.protocols import ProtocolJudge
from viscot_core.score.second_reader import CHECKED, SecondReader
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State

OPTIONS = ("red", "blue")
READ = "The answer is (B)."
UNREAD = "It is one of those two."


class Reader:
    """A judge that says of every answer what ``says`` says; it keeps what it was asked about."""

    identity = JudgeIdentity.now("openai:reader", "reader", "abc", 0.0, "def")

    def __init__(self, *says: Outcome) -> None:
        self.says, self.asked = says, list[Pair]()

    def judge(self, pairs: Sequence[Pair], done: Done) -> None:
        self.asked += pairs
        for number, pair in enumerate(pairs):
            done(pair, self.says[number % len(self.says)])


def pair(answer: str, number: int = 0, right: str = "B. blue") -> Pair:
    return Pair(f"{number}?", right, answer, OPTIONS, "vstar")


def judged(reader: Reader, *pairs: Pair) -> tuple[SecondReader, dict[Pair, Outcome]]:
    judge, found = SecondReader(ProtocolJudge("shuffled"), reader), dict[Pair, Outcome]()
    judge.judge(pairs, found.__setitem__)
    return judge, found


def scored(value: float) -> Outcome:
    return Outcome(State.SCORED, value, None, f"score: {value}")


def test_it_reads_what_the_rule_cannot_and_tells_its_agreement() -> None:
    wrong = pair("A", 2)
    reader = Reader(scored(0.9))
    judge, found = judged(reader, pair(UNREAD), pair(READ, 1), wrong)
    assert found[pair(UNREAD)] == Outcome(State.SCORED, 1.0, None, "score: 0.9")
    assert (found[pair(READ, 1)].score, found[wrong].score) == (1.0, 0.0)  # the rule's own
    assert (judge.read, judge.checked, judge.agreed) == (1, 2, 1)
    assert judge.identity.name == "shuffled+openai:reader"
    assert (judge.identity.prompt_sha256, judge.identity.extra_sha256) == ("abc", "def")


def test_it_is_not_asked_where_the_rule_reads_everything_and_gets_a_sample_else() -> None:
    judge, found = judged(reader := Reader(scored(1.0)), *(pair(READ, n) for n in range(80)))
    assert not reader.asked and len(found) == 80
    judge, found = judged(reader, pair(UNREAD, -1), *(pair(READ, n) for n in range(80)))
    assert len(reader.asked) == CHECKED + 1 and judge.agreed == judge.checked == CHECKED


def test_where_it_gives_no_score_the_rules_outcome_stands_and_what_is_pending_stays_pending() -> None:
    _, found = judged(Reader(Outcome(State.UNSCORED, None, "no number")), pair(UNREAD))
    assert found[pair(UNREAD)] == Outcome(State.SCORED, 0.0, "the final answer names no option")
    _, found = judged(Reader(Outcome(State.PENDING, None, "cost")), pair(UNREAD))
    assert found[pair(UNREAD)].state is State.PENDING


def test_what_the_rule_read_is_there_when_the_judge_cannot_work() -> None:
    class Broken(Reader):
        def judge(self, pairs: Sequence[Pair], done: Done) -> None:
            raise EngineError("no server")

    found: dict[Pair, Outcome] = {}
    try:
        SecondReader(ProtocolJudge("shuffled"), Broken()).judge(
            [pair(UNREAD), pair(READ, 1)], found.__setitem__
        )
    except EngineError:
        assert list(found) == [pair(READ, 1)]
