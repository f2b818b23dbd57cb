"""The rollout on a scripted engine: who is asked what, how often, and what is reported in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from rollout_questions import BOX, COT, DIRECT, FAILED, OTHER_BOX, question
from scripted_engine import ScriptedEngine

from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.errors import EngineError
from viscot_core.policies.base import Policy, Question
from viscot_core.policies.dialects.known import dialect
from viscot_core.policies.zoom import Zoom as ZoomLoop
from viscot_core.rollout import run, stream


def test_the_scripted_engine_is_an_engine() -> None:
    assert isinstance(ScriptedEngine(), Engine)


def test_all_first_turns_run_together_then_all_second_turns() -> None:
    engine = ScriptedEngine(BOX, OTHER_BOX, "one", "two")
    answers = run(COT, engine, [question("a?"), question("b?")])
    assert [answer.text for answer in answers] == ["one", "two"]
    assert [[len(request.images) for request in call] for call in engine.calls] == [[1, 1], [2, 2]]
    assert [answer.box_text for answer in answers] == [BOX, OTHER_BOX]


def test_policies_of_different_lengths_run_in_one_batch() -> None:
    engine = ScriptedEngine(BOX, "seen at once", "looked closer")
    cot, direct = run([COT, DIRECT], engine, [question(), question()])
    assert (cot.text, direct.text) == ("looked closer", "seen at once")
    assert [len(call) for call in engine.calls] == [2, 1]
    assert (cot.policy, direct.policy) == ("two_turn", "direct")


def test_there_is_one_policy_for_each_question() -> None:
    with pytest.raises(ValueError, match="zip"):
        run([COT], ScriptedEngine(), [question(), question()])


def test_nothing_is_asked_without_questions() -> None:
    engine = ScriptedEngine()
    assert run(COT, engine, []) == [] and engine.calls == []


# -- failures ----------------------------------------------------------------------------------------


def test_a_failed_first_turn_costs_no_second_call() -> None:
    engine = ScriptedEngine(FAILED)
    (answer,) = run(COT, engine, [question()])
    assert (answer.text, answer.error, answer.looks) == ("", "the prompt does not fit", ())
    assert not answer.finished and not answer.transient and answer.policy == "two_turn"
    assert len(engine.requests) == 1


def test_a_failed_first_turn_leaves_the_others_theirs() -> None:
    engine = ScriptedEngine(FAILED, BOX, "two")
    first, second = run(COT, engine, [question("a?"), question("b?")])
    assert first.error is not None and second.text == "two"
    assert [len(call) for call in engine.calls] == [2, 1]


def test_a_failed_second_turn_keeps_the_look() -> None:
    busy = Generation("", 0, False, error="the server is busy", transient=True)
    (answer,) = run(COT, ScriptedEngine(BOX, busy), [question()])
    assert answer.error == "the server is busy" and answer.transient and answer.box_text == BOX


def test_an_engine_that_is_gone_raises() -> None:
    def fail(_: Sequence[Request]) -> None:
        raise EngineError("The server is gone.")

    with pytest.raises(EngineError, match="gone"):
        run(COT, ScriptedEngine(on_generate=fail), [question()])


def test_an_engine_that_leaves_out_a_request_is_a_bug_and_no_answer() -> None:
    class Short(ScriptedEngine):
        def generate(self, requests: Sequence[Request]) -> list[Generation]:
            return super().generate(requests)[:-1]

    with pytest.raises(ValueError, match="zip"):
        run(DIRECT, Short("one", "two"), [question("a?"), question("b?")])


def test_a_finished_question_makes_room_for_the_next_one() -> None:
    """Three at a time: one looks six times, the others answer at once, and no call is half empty."""
    zoom = ZoomLoop(dialect("viscot"), looks=6)

    class Looker(ScriptedEngine):
        """Looks six times at the first question; the others have their answer."""

        def _answer(self, request: Request) -> Generation:
            long = "long" in request.messages[0].text and len(request.images) <= 6
            return Generation("[0.100, 0.100, 0.900, 0.900]" if long else "done", 1, True)

    engine = Looker()
    taken: list[str] = []

    def asked() -> Iterator[tuple[Policy, Question]]:
        for text in ("long?", *(f"{n}?" for n in range(12))):
            taken.append(text)
            yield zoom, question(text, key=text)

    finished = []
    for number, answer in stream(asked(), engine, width=3):
        finished.append(number)
        assert answer.text == "done" and len(taken) <= len(finished) + 3
    assert [len(call) for call in engine.calls] == [3] * 6 + [1], "7 turns and 12 answers: 19 requests"
    assert finished == [*range(1, 13), 0]


def test_a_stream_and_a_run_say_the_same() -> None:
    replies = (BOX, OTHER_BOX, "one", "two")
    whole = run(COT, ScriptedEngine(*replies), [question("a?"), question("b?")])
    streamed = dict(stream([(COT, question("a?")), (COT, question("b?"))], ScriptedEngine(*replies)))
    for number, answer in enumerate(whole):
        assert replace(streamed[number], seconds=0) == replace(answer, seconds=0)
