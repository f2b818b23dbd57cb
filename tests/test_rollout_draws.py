"""Equal questions of a run that samples: each is a draw of its own, and the same one every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image
from rollout_questions import BOX, COT, DIRECT, question
from scripted_engine import ScriptedEngine

from viscot_core.ask import VisualCoT
from viscot_core.engines.base import Sampling, draw_of
from viscot_core.rollout import run, stream

WARM = Sampling(1.0)


def test_draws_of_one_question_are_asked_one_by_one() -> None:
    engine = ScriptedEngine("one", "two", "three")
    answers = run(DIRECT, engine, [question()] * 3, sampling=WARM)
    assert [answer.text for answer in answers] == ["one", "two", "three"]
    engine = ScriptedEngine("one", deterministic=False)
    assert [a.text for a in run(DIRECT, engine, [question()] * 3, sampling=Sampling())] == ["one"] * 3


def test_a_question_has_one_number_whatever_is_asked_together() -> None:
    """In all its steps, with one, two or all questions open; no other question has it."""
    asked = [question("A?"), question("B?"), question("A?"), question("A?")]
    found = []
    for width in (1, 2, None):
        engine = ScriptedEngine(*[BOX] * 8)
        list(stream([(COT, each) for each in asked], engine, width=width, sampling=WARM))
        seen = [
            (request.messages[0].text.lower().count("a?"), request.draw or 0) for request in engine.requests
        ]
        assert [sorted(seen).count(each) for each in set(seen)] == [2] * 4, width
        assert len({draw for _, draw in seen}) == 4
        found.append(set(seen))
    assert found[0] == found[1] == found[2]
    # Written down: the same on every machine, in every process.
    assert draw_of("A?", 1) == 335047628


def test_a_question_that_says_which_draw_it_is_needs_no_counting() -> None:
    """Calls that share no count, in any order: as batches of a run, its threads and its restart are."""
    for number in (2, 0, 1):
        engine = ScriptedEngine(BOX, "x", deterministic=False)
        run(COT, engine, [replace(question(), draw=number)])
        assert [request.draw for request in engine.requests] == [number, number]


def test_a_question_that_is_asked_again_is_another_draw() -> None:
    engine = ScriptedEngine(*["x"] * 5, deterministic=False)
    image = Image.new("RGB", (64, 48))
    cot = VisualCoT(engine, strategy="direct")
    for text in ("A?", "A?", "B?"):
        cot.ask(image, text)
    VisualCoT(engine, strategy="direct").ask(image, "A?")
    first, again, other, anew = (request.draw for request in engine.requests)
    assert first == anew and len({first, again, other}) == 3
    cot.ask(Image.new("RGB", (48, 64)), "A?")
    assert engine.requests[-1].draw not in (first, again, other), "another image"


def test_equal_texts_have_no_draws() -> None:
    engine = ScriptedEngine("x")
    VisualCoT(engine, strategy="direct").ask_many([(Image.new("RGB", (64, 48)), "A?")] * 2)
    assert [request.draw for request in engine.requests] == [None]


@pytest.mark.parametrize("seed", [0, 7, 1732742400, 2**31 - 1])
def test_a_drawn_seed_fits_servers_of_32_bits(seed: int) -> None:
    """A date as the seed and a draw of 31 bits were refused, although the server takes the seed."""
    numbers = [0, 1, 335047628, 2**31 - 1]
    drawn = [Sampling(1.0, seed=seed).draw(number).seed for number in numbers]
    assert all(0 <= each < 2**31 for each in drawn) and len(set(drawn)) == len(numbers)
    assert drawn[0] == seed
    assert Sampling(1.0, seed=2**40).draw(3).seed == 2**40 + 3
