"""Equal steps are asked once where equal requests get equal texts; what no model can be asked fails alone."""

from __future__ import annotations

import pytest
from rollout_questions import BOX, COT, DIRECT, FAILED, OTHER_BOX, WORDING, question
from scripted_engine import ScriptedEngine

from viscot_core.policies.base import Question
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.rollout import run
from viscot_core.step_requests import NO_TEXT


def test_a_shared_step_is_asked_once_when_equal_requests_get_equal_texts() -> None:
    """The strategies cot and no-image of one item begin with the same turn."""
    engine = ScriptedEngine(BOX, "with the crop", "without")
    without_crop = TwoTurn(WORDING, shows_crop=False)
    with_crop, without = run([COT, without_crop], engine, [question(), question()])
    assert [len(call) for call in engine.calls] == [1, 2]
    assert (with_crop.text, without.text) == ("with the crop", "without")
    assert with_crop.box_text == without.box_text == BOX
    assert with_crop.looks[0].crop is not None and without.looks[0].crop is None


def test_a_shared_step_is_asked_for_each_when_texts_depend_on_chance() -> None:
    engine = ScriptedEngine(BOX, OTHER_BOX, "one", "two", deterministic=False)
    answers = run(COT, engine, [question(), question()])
    assert [len(call) for call in engine.calls] == [2, 2]
    assert [answer.box_text for answer in answers] == [BOX, OTHER_BOX]


@pytest.mark.parametrize(
    "other",
    [
        question("Which?"),
        question(key="another image"),
        question(max_new_tokens=7),
        question(stop=(".",)),
    ],
    ids=["words", "image", "length", "stop"],
)
def test_steps_that_differ_in_anything_are_asked_separately(other: Question) -> None:
    engine = ScriptedEngine("one", "two")
    assert [answer.text for answer in run(DIRECT, engine, [question(), other])] == ["one", "two"]


def test_everybody_who_shares_a_step_gets_its_text_and_its_look() -> None:
    told: list[tuple[int, str]] = []
    looks: list[int] = []
    run(
        COT,
        ScriptedEngine(BOX, "abcd"),
        [question(), question()],
        on_text=lambda number, text: told.append((number, text)),
        on_look=lambda number, _: looks.append(number),
    )
    assert told == [(0, "ab"), (1, "ab"), (0, "abcd"), (1, "abcd")] and looks == [0, 1]


def test_a_shared_failure_fails_everybody_who_shares_it() -> None:
    engine = ScriptedEngine(FAILED)
    answers = run(COT, engine, [question(), question()])
    assert [answer.error for answer in answers] == [FAILED.error] * 2 and len(engine.requests) == 1


# -- a full batch ------------------------------------------------------------------------------------


def test_words_that_are_no_text_fail_their_question_alone() -> None:
    """Also where a server's own words, which the second turn quotes, are such."""
    engine = ScriptedEngine("one", "two")
    answers = run(DIRECT, engine, [question("a"), question("b\ud83d"), question("c")])
    assert [answer.text for answer in answers] == ["one", "", "two"]
    assert answers[1].error == NO_TEXT and len(engine.requests) == 2
    (answer,) = run(COT, ScriptedEngine(f"\udce9 {BOX}"), [question()])
    assert answer.error == NO_TEXT
    assert run(DIRECT, ScriptedEngine(), [question("\ud83d")])[0].error == NO_TEXT
