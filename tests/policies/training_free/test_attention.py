"""A look at what the model attends to: a planted map is found, in an image of any size, in few calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from viscot_core.boxes.attention_map import AttentionKind, AttentionMap
from viscot_core.boxes.geometry import CropPolicy, Size
from viscot_core.boxes.registry import codec
from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request, Sampling, Traits
from viscot_core.errors import UsageError
from viscot_core.images.view import View, view_of
from viscot_core.policies.base import Answer, Question
from viscot_core.policies.direct import Direct
from viscot_core.policies.training_free.attention import GENERAL, Attention
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import SHORT, Wording
from viscot_core.rollout import run

WORDS = Wording(codec("viscot"))
RED = (220, 10, 10)


class Looking:
    """Attends to the planted colour, and to its first cell whatever is asked; answers what it sees last."""

    def __init__(self, cells: Size = (16, 16), *, tells: bool = True, side: int = 112) -> None:
        self.name, self.identity, self.cells, self.side = "looking", {"engine": "looking"}, cells, side
        self.traits = Traits(batch=4, attention=tells)
        self.requests: list[Request] = []

    def prompt(self, messages: Sequence[Message]) -> str:
        return messages[-1].text

    def reset(self) -> None:
        """Nothing is kept."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.requests += requests
        return [self._say(request) for request in requests]

    def _say(self, request: Request) -> Generation:
        image = request.images[-1].image
        if request.attention is None:
            return Generation("found" if red_cells(image, (1, 1))[0][0] else "nothing", 1, True)
        found = red_cells(image, self.cells)
        if GENERAL in request.messages[-1].text:
            found = [[0.0] * self.cells[0] for _ in range(self.cells[1])]
        values = [[0.001 + 0.1 * share for share in row] for row in found]
        if request.attention.kind == "weights":
            values[0][0] = 0.9
        attention = AttentionMap(tuple(map(tuple, values)), side=self.side)
        return Generation("x", 1, False, truncated=True, prompt_tokens=10, attention=attention)


def red_cells(image: Image.Image, cells: Size) -> list[list[float]]:
    """The share of each cell that has the planted colour."""
    mask = Image.fromarray((np.asarray(image) == RED).all(-1).astype(np.uint8) * 255)
    small = mask.resize(cells, Image.Resampling.BOX)
    return [[float(small.getpixel((x, y))) for x in range(cells[0])] for y in range(cells[1])]  # type: ignore[arg-type]


def planted(size: Size, place: tuple[int, int], side: int = 40) -> View:
    image = Image.new("RGB", size, (90, 120, 90))
    image.paste(RED, (*place, place[0] + side, place[1] + side))
    return view_of(image)


def policy(kind: AttentionKind = "weights", crop: CropPolicy = CropPolicy.TIGHT) -> Attention:
    return Attention(TwoTurn(WORDS, crop), WORDS, kind)


@pytest.mark.parametrize(("kind", "calls"), [("weights", 3), ("gradient", 2)])
@pytest.mark.parametrize("place", [(20, 30), (700, 40), (350, 250), (740, 540)])
def test_it_looks_where_the_map_is_planted(kind: AttentionKind, calls: int, place: tuple[int, int]) -> None:
    engine = Looking()
    view = planted((800, 600), place)
    (answer,) = run(policy(kind), engine, [Question("What is red?", (view,), max_new_tokens=9)])
    assert answer.error is None and answer.text == "found" and not answer.truncated
    assert len(engine.requests) == calls == len(answer.costs)
    left, top, right, bottom = answer.crop
    assert left <= place[0] and top <= place[1] and right >= place[0] + 40 and bottom >= place[1] + 40
    assert 112 <= right - left <= 225 and abs(right - left - (bottom - top)) <= 1
    assert answer.look is not None and answer.look.named_by == "given" and answer.status is None
    assert answer.policy == ("attention" if kind == "weights" else "attention-gradient")
    assert engine.requests[-1].max_new_tokens == 9 and len(engine.requests[-1].images) == 2
    assert answer.prompt_tokens == 10 * (calls - 1) and answer.tokens == calls


def test_what_is_attended_to_whatever_is_asked_is_no_look() -> None:
    """Nothing is red: the first cell, which has most attention, has no more than in general."""
    engine = Looking()
    (answer,) = run(policy(), engine, [Question("What is red?", (planted((800, 600), (900, 900)),))])
    assert answer.text == "nothing" and answer.error is None


@pytest.mark.parametrize("size", [(500, 3000), (3000, 500), (20, 20), (1, 1), (1, 600)])
@pytest.mark.parametrize("kind", ["weights", "gradient"])
def test_odd_sizes(size: Size, kind: AttentionKind) -> None:
    engine = Looking(side=336)
    view = planted(size, (0, 0), side=30)
    for crop in (CropPolicy.TIGHT, CropPolicy.PAPER):
        (answer,) = run(policy(kind, crop), engine, [Question("What is red?", (view,))])
        left, top, right, bottom = answer.crop
        assert answer.error is None and answer.text == "found"
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


def test_two_questions_about_an_image_share_the_general_request() -> None:
    """With the suffix of the question, which is no part of what the two requests differ in."""
    engine = Looking()
    view = planted((400, 400), (200, 200))
    answers = run(
        policy(), engine, [Question(f"{name}?{SHORT}", (view,)) for name in ("Which", "Where", "What")]
    )
    asked = [request.messages[-1].text for request in engine.requests if request.attention]
    assert len(asked) == 4 and sum(GENERAL + SHORT in text for text in asked) == 1
    assert [answer.text for answer in answers] == ["found"] * 3


def test_maps_do_not_depend_on_chance() -> None:
    """Answers are drawn, each its own; a general request is asked for each of them then."""
    engine = Looking()
    question = Question("What is red?", (planted((400, 400), (200, 200)),))
    answers = run(policy(), engine, [question] * 2, sampling=Sampling(temperature=1.0))
    assert [answer.text for answer in answers] == ["found"] * 2 and len({a.crop for a in answers}) == 1


def test_an_engine_without_maps_is_refused_before_any_call() -> None:
    engine = Looking(tells=False)
    question = Question("What?", (planted((400, 400), (200, 200)),))
    with pytest.raises(UsageError, match="only --engine transformers can tell"):
        run([Direct(WORDS), policy()], engine, [question, question])
    assert not engine.requests


def test_a_failed_map_ends_its_question() -> None:
    class Failing(Looking):
        def _say(self, request: Request) -> Generation:
            return Generation("", 0, False, "no room") if request.attention else super()._say(request)

    engine = Failing()
    (answer,) = run(policy(), engine, [Question("What?", (planted((400, 400), (200, 200)),))])
    assert answer.error == "no room" and len(engine.requests) == 1


def test_a_reply_without_a_map_is_a_fault_of_the_engine() -> None:
    step = policy().start(Question("What?", (planted((40, 40), (2, 2)),)))
    with pytest.raises(ValueError, match="tells what a model attends to"):
        policy().next(step, "x")
    assert not isinstance(step, Answer) and step.messages[0].text.startswith("<image>\n")
