"""What the rollout reports and tells of an answer: looks, words as they come, thoughts, probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from rollout_questions import BOX, COT, DIRECT, GIVEN, WORDING, question
from scripted_engine import ScriptedEngine

from viscot_core.boxes.geometry import WHOLE, Box, BoxStatus
from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request, Sampling
from viscot_core.policies.base import Answer, Look, Question, Step
from viscot_core.policies.locate import Locate
from viscot_core.rollout import CANCELLED, Turn, replay, run


@dataclass
class Events:
    """What ``run`` reports, in order."""

    seen: list[object]

    def on_text(self, number: int, text: str) -> None:
        self.seen.append((number, text))

    def on_look(self, number: int, look: Look) -> None:
        self.seen.append((number, look.text, look.crop))

    def on_generate(self, requests: Sequence[Request]) -> None:
        self.seen.append(len(requests))


def test_the_look_comes_between_the_turns_and_the_words_of_the_box_are_not_told() -> None:
    events = Events([])
    engine = ScriptedEngine(BOX, "abcd", on_generate=events.on_generate)
    run(COT, engine, [question()], on_text=events.on_text, on_look=events.on_look)
    assert events.seen == [1, (0, BOX, (240, 160, 464, 384)), 1, (0, "ab"), (0, "abcd")]


def test_a_given_look_is_reported_before_the_only_call() -> None:
    events = Events([])
    engine = ScriptedEngine("yes", on_generate=events.on_generate)
    given = question(box=Box(0.5, 0.5, 0.6, 0.6))
    run(GIVEN, engine, [given], on_text=events.on_text, on_look=events.on_look)
    assert events.seen == [(0, BOX, (240, 160, 464, 384)), 1, (0, "y"), (0, "yes")]


def test_a_located_region_is_reported_after_its_words() -> None:
    events = Events([])
    run(Locate(WORDING), ScriptedEngine(BOX), [question()], on_text=events.on_text, on_look=events.on_look)
    assert events.seen == [(0, BOX[:14]), (0, BOX), (0, BOX, None)]


def test_nobody_listens_to_a_first_turn() -> None:
    engine = ScriptedEngine(BOX, "x")
    run(COT, engine, [question()], on_text=lambda *_: None)
    first, second = engine.requests
    assert first.on_text is None and second.on_text is not None


class Zoom:
    """Three looks before the answer: more turns than any policy of viscot has."""

    name = "zoom"

    def start(self, question: Question) -> Step:
        return Step(question, (Message("user", "Where?"),), question.images, answers=False)

    def next(self, step: Step, text: str) -> Step | Answer:
        if step.answers:
            return Answer(text, step.question.size, step.looks, self.name)
        looks = (*step.looks, Look(WHOLE, text, step.question.size, BoxStatus.OK))
        return replace(step, looks=looks, answers=len(looks) == 3)


def test_a_policy_may_take_any_number_of_looks() -> None:
    looks: list[str] = []
    engine = ScriptedEngine("first", "second", "third", "the answer")
    (answer,) = run(Zoom(), engine, [question()], on_look=lambda _, look: looks.append(look.text))
    assert looks == ["first", "second", "third"] == [look.text for look in answer.looks]
    assert answer.text == "the answer" and len(engine.calls) == 4


def test_tokens_and_seconds_are_those_of_all_steps() -> None:
    engine = ScriptedEngine(Generation(BOX, 12, True), Generation("66", 3, False))
    (answer,) = run(COT, engine, [question()])
    assert answer.tokens == 15 and answer.seconds > 0
    assert not answer.finished, "the last turn did not end by itself"


# -- cancellation ------------------------------------------------------------------------------------


def test_after_a_cancelled_first_turn_there_is_no_second_and_no_look() -> None:
    """The region's words may have been cut off: nothing that was read of them is reported."""
    stopped: list[bool] = []
    looks: list[int] = []
    engine = ScriptedEngine(Generation("[0.500, 0.5", 4, False), on_generate=lambda _: stopped.append(True))
    (answer,) = run(
        COT,
        engine,
        [question()],
        cancelled=lambda: bool(stopped),
        on_look=lambda number, _: looks.append(number),
    )
    assert (answer.error, answer.transient, answer.looks, looks) == (CANCELLED, True, (), [])
    assert len(engine.calls) == 1 and answer.tokens == 4


def test_a_cancelled_answer_keeps_its_words() -> None:
    stopped: list[bool] = []

    def stop_in_the_second_turn(requests: Sequence[Request]) -> None:
        if len(requests[0].images) == 2:
            stopped.append(True)

    engine = ScriptedEngine(BOX, Generation("the sign", 2, False), on_generate=stop_in_the_second_turn)
    (answer,) = run(COT, engine, [question()], cancelled=lambda: bool(stopped))
    assert (answer.text, answer.error, answer.finished, answer.box_text) == ("the sign", None, False, BOX)


def test_nothing_is_asked_for_those_who_left_before() -> None:
    engine = ScriptedEngine()
    given = question(box=Box(0.5, 0.5, 0.6, 0.6))
    answers = run([COT, GIVEN], engine, [question(), given], cancelled=lambda: True)
    assert [answer.error for answer in answers] == [CANCELLED] * 2 and engine.calls == []


def test_the_engine_is_told_how_to_ask_whether_to_go_on() -> None:
    engine = ScriptedEngine(BOX, "x")
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return False

    run(COT, engine, [question()], cancelled=cancelled)
    before = len(asked)
    assert all(request.cancelled is not None and not request.cancelled() for request in engine.requests)
    assert len(asked) == before + 2


def test_recorded_texts_give_the_steps_and_the_answer_again() -> None:
    engine = ScriptedEngine(BOX, "two")
    (answer,) = run(COT, engine, [question()])
    steps, again = replay(COT, question(), [BOX, "two"])
    assert [step.messages for step in steps] == [call[0].messages for call in engine.calls]
    assert again is not None
    assert (again.text, again.looks) == (answer.text, answer.looks)


def test_a_record_that_ends_early_gives_the_steps_so_far() -> None:
    steps, answer = replay(COT, question(), [BOX])
    assert (len(steps), steps[-1].answers, answer) == (2, True, None)
    assert replay(COT, question(), []) == ([COT.start(question())], None)


# -- thoughts and limits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "thought"),
    [
        (f"<think>maybe [0.5, 0.5, 0.9, 0.9]</think>\n{BOX}", "maybe [0.5, 0.5, 0.9, 0.9]"),
        (f"maybe [0.5, 0.5, 0.9, 0.9]</think>{BOX}", "maybe [0.5, 0.5, 0.9, 0.9]"),
        (f"◁think▷hm◁/think▷{BOX}", "hm"),
        # GLM-4.1V-Thinking and GLM-4.5V write marks around the answer, too.
        (f"<think>hm</think><answer>{BOX}</answer>", "hm"),
        (f"<|channel>thought\nhm<channel|>{BOX}", "hm"),  # Gemma 4
        # InternVL3.5 under its prompt for thinking.
        (f"<think>\nThe user asks about the sign.\n</think>\n\n{BOX}", "The user asks about the sign."),
        (BOX, ""),
    ],
)
def test_a_thought_is_kept_apart_and_the_final_text_is_read(said: str, thought: str) -> None:
    engine = ScriptedEngine(said, "<think>so</think> a word")
    (answer,) = run(COT, engine, [question()])
    assert (answer.box_text, answer.status, answer.text) == (BOX, BoxStatus.OK, "a word")
    assert answer.thoughts == (thought, "so") and not answer.truncated
    assert engine.requests[1].messages[1] == Message("assistant", BOX), "the thought is no part of turn 2"


def test_a_thought_that_a_server_sends_apart() -> None:
    engine = ScriptedEngine(Generation("a word", 9, True, thought="so"))
    (answer,) = run(DIRECT, engine, [question()])
    assert (answer.text, answer.thoughts) == ("a word", ("so",))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (Generation("half an ans", 5, False, truncated=True), "half an ans"),
        (Generation("<think>it goes on", 5, False, truncated=True), ""),
        (Generation("<think>a stop text ended it", 5, True), ""),
        (Generation("", 5, False, truncated=True, thought="it goes on"), ""),
    ],
)
def test_what_was_cut_is_told(said: Generation, text: str) -> None:
    (answer,) = run(DIRECT, ScriptedEngine(said), [question()])
    assert (answer.text, answer.truncated, answer.finished) == (text, True, False)


def test_a_region_that_was_cut_marks_the_whole_answer() -> None:
    engine = ScriptedEngine(Generation("<think>hm", 9, False, truncated=True), "a word")
    (answer,) = run(COT, engine, [question()])
    assert answer.truncated and answer.finished and answer.status is BoxStatus.UNPARSABLE


def test_a_thought_is_not_streamed_as_an_answer() -> None:
    class Streams(ScriptedEngine):
        def generate(self, requests: Sequence[Request]) -> list[Generation]:
            for text in (
                "<th",
                "<think>h",
                "<think>hm</think>",
                "<think>hm</think> a",
                "<think>hm</think> a b",
            ):
                assert requests[0].on_text is not None
                requests[0].on_text(text)
            return [Generation("<think>hm</think> a b", 5, True)]

    told: list[str] = []
    run(DIRECT, Streams(), [question()], on_text=lambda _, text: told.append(text))
    assert told == ["a", "a b"]


def test_turns_that_were_said_before_are_not_asked_again() -> None:
    kept: list[tuple[int, Turn]] = []
    busy = Generation("", 0, False, error="busy", transient=True)
    first = ScriptedEngine(Generation(BOX, 7, True, thought="hm"), busy)
    run(COT, first, [question()], on_turn=lambda number, turn: kept.append((number, turn)))
    assert [(number, turn.text, turn.thought, turn.tokens) for number, turn in kept] == [(0, BOX, "hm", 7)]
    assert (first.requests[0].follow_ups, first.requests[1].reserved) == (1, 1)
    again = ScriptedEngine("a word")
    (answer,) = run(COT, again, [question()], said={0: [kept[0][1]]})
    assert (answer.text, answer.box_text, answer.tokens) == ("a word", BOX, 13)
    assert answer.thoughts == ("hm", "") and again.requests[0].reserved == 0


def sure(text: str, *probabilities: float, thought: int = 0) -> Generation:
    logprobs = tuple(math.log(p) for p in probabilities)
    return Generation(text, len(logprobs), True, logprobs=logprobs, thought_tokens=thought)


def test_an_answer_tells_how_sure_its_words_are() -> None:
    """Geometric means: of the box's words, and of the answer's, without the thought before them."""
    thinks = sure("<think>hm</think>66", 0.01, 0.01, 0.9, 0.4, thought=2)
    engine = ScriptedEngine(sure(BOX, 0.5, 0.5, 0.5), thinks)
    (answer,) = run(COT, engine, [question()], logprobs=True)
    assert (answer.text, answer.thoughts) == ("66", ("", "hm"))
    assert answer.box_probability == pytest.approx(0.5) and answer.answer_probability == pytest.approx(0.6)
    assert answer.to_dict() | {"box_probability": 0.5, "answer_probability": 0.6} == answer.to_dict()
    assert all(request.logprobs for request in engine.requests)
    given = question(box=Box(0.1, 0.1, 0.5, 0.5))
    (answer,) = run(GIVEN, ScriptedEngine(sure("66", 0.25, 1.0)), [given])
    assert (answer.box_probability, answer.answer_probability) == (None, pytest.approx(0.5))
    (answer,) = run(COT, ScriptedEngine(sure(BOX, 0.5), "66"), [question()])
    assert (answer.box_probability, answer.answer_probability) == (pytest.approx(0.5), None)
    assert "answer_probability" not in answer.to_dict()


@pytest.mark.parametrize(
    ("logprobs", "paid", "asked"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_probabilities_are_asked_for_where_they_cost_nothing(logprobs: bool, paid: bool, asked: bool) -> None:
    engine = ScriptedEngine(BOX, "66", BOX, "66")
    engine.traits = replace(engine.traits, logprobs=logprobs, paid=paid)
    run(COT, engine, [question()])
    assert [request.logprobs for request in engine.requests] == [asked] * 2
    run(COT, engine, [question()], logprobs=not asked, sampling=Sampling(0.7))
    assert [request.logprobs for request in engine.requests[2:]] == [not asked] * 2
    assert {request.sampling for request in engine.requests[2:]} == {Sampling(0.7)}


GLM = "<think>The sign says 66.</think><answer>It is <|begin_of_box|>66<|end_of_box|>.</answer>"
"""A reply of GLM-4.1V-Thinking, as its model card shows the form."""


def test_marks_around_what_counts_are_no_part_of_the_answer() -> None:
    """Said apart or between marks, whole or token by token; each told text begins the next."""
    apart = Generation(
        "<answer>It is <|begin_of_box|>66<|end_of_box|>.</answer>", 9, True, thought="The sign says 66."
    )
    for said in (Generation(GLM, 9, True), apart):
        (answer,) = run(DIRECT, ScriptedEngine(said), [question()])
        assert (answer.text, answer.thoughts) == ("It is 66.", ("The sign says 66.",))

    class Streams(ScriptedEngine):
        def generate(self, requests: Sequence[Request]) -> list[Generation]:
            assert requests[0].on_text is not None
            for end in range(1, len(GLM) + 1):
                requests[0].on_text(GLM[:end])
            return [Generation(GLM, 9, True)]

    told: list[str] = []
    (answer,) = run(DIRECT, Streams(), [question()], on_text=lambda _, text: told.append(text))
    assert all(later.startswith(text) for text, later in itertools.pairwise(told))
    assert told[-1] == answer.text and not any("<" in text for text in told)


def test_an_answer_without_a_thought_is_kept_letter_by_letter() -> None:
    said = "<answer> if a < b </answer>"
    (answer,) = run(DIRECT, ScriptedEngine(said), [question()])
    assert answer.text == said
