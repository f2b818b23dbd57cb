"""Equal questions of a run that samples: each is a draw of its own, and the same one every time."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image
from rollout_questions import BOX, COT, DIRECT, question
from scripted_engine import ScriptedEngine

from viscot_core.ask import VisualCoT
from viscot_core.engines.base import Sampling
from viscot_core.rollout import run, stream

WARM = Sampling(1.0)


def test_draws_of_one_question_are_asked_one_by_one() -> None:
    engine = ScriptedEngine("one", "two", "three")
    answers = run(DIRECT, engine, [question()] * 3, sampling=WARM)
    assert [answer.text for answer in answers] == ["one", "two", "three"]
    engine = ScriptedEngine("one", deterministic=False)
    assert [a.text for a in run(DIRECT, engine, [question()] * 3, sampling=Sampling())] == ["one"] * 3


def test_a_question_has_one_number_whatever_is_asked_together() -> None:
    """In all its steps, with one, two or all questions open."""
    asked = [question("A?"), question("B?"), question("A?"), question("A?")]
    for width in (1, 2, None):
        engine = ScriptedEngine(*[BOX] * 8)
        list(stream([(COT, each) for each in asked], engine, width=width, sampling=WARM))
        seen = [(request.messages[0].text.lower().count("a?"), request.draw) for request in engine.requests]
        assert sorted(seen) == sorted([(0, 0), (1, 0), (1, 1), (1, 2)] * 2), width


def test_a_question_that_says_which_draw_it_is_needs_no_counting() -> None:
    """Calls that share no count, in any order: as batches of a run, its threads and its restart are."""
    for number in (2, 0, 1):
        engine = ScriptedEngine(BOX, "x", deterministic=False)
        run(COT, engine, [replace(question(), draw=number)])
        assert [request.draw for request in engine.requests] == [number, number]


def test_a_question_that_is_asked_again_is_another_draw() -> None:
    engine = ScriptedEngine(*["x"] * 4, deterministic=False)
    image = Image.new("RGB", (64, 48))
    cot = VisualCoT(engine, strategy="direct")
    for text in ("A?", "A?", "B?"):
        cot.ask(image, text)
    VisualCoT(engine, strategy="direct").ask(image, "A?")
    assert [request.draw for request in engine.requests] == [0, 1, 0, 0]


def test_equal_texts_have_no_draws() -> None:
    engine = ScriptedEngine("x")
    VisualCoT(engine, strategy="direct").ask_many([(Image.new("RGB", (64, 48)), "A?")] * 2)
    assert [request.draw for request in engine.requests] == [None]
