"""The search finds what is planted, with a bounded number of calls, in an image of any size."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from PIL import Image

from viscot_core.boxes.geometry import Size, Window
from viscot_core.boxes.registry import codec
from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request, Traits
from viscot_core.images.view import view_of
from viscot_core.policies.base import Answer, Question, Step
from viscot_core.policies.training_free.tree import LEAST_SIDE, MOST_CALLS, Tree, parts_of, probability_of_yes
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import HOLDS_ANSWER, Wording
from viscot_core.rollout import run

POLICY = Tree(TwoTurn(Wording(codec("viscot"))))
RED = (220, 10, 10)


class Seeing:
    """Says how likely "yes" is by the share of the planted colour; with ``tells`` False only the word."""

    def __init__(self, *, tells: bool = True) -> None:
        self.name, self.identity, self.tells = "seeing", {"engine": "seeing"}, tells
        self.traits = Traits(batch=4, logprobs=tells)
        self.requests: list[Request] = []

    def prompt(self, messages: Sequence[Message]) -> str:
        return messages[-1].text

    def reset(self) -> None:
        """Nothing is kept."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.requests += requests
        return [self._say(request) for request in requests]

    def _say(self, request: Request) -> Generation:
        seen = red_share(request.images[-1].image)
        if HOLDS_ANSWER not in request.messages[-1].text:
            return Generation("found" if seen else "nothing", 1, True)
        yes = 0.02 + 0.9 * min(1.0, 8 * seen)
        top = ((" Yes", math.log(yes)), ("No", math.log(1 - yes))) if self.tells else ()
        word = "Yes" if seen > 0 else "No"
        return Generation(word, 1, False, truncated=True, top_logprobs=top)


def red_share(image: Image.Image) -> float:
    colours = image.getcolors(image.width * image.height) or []
    return sum(count for count, colour in colours if colour == RED) / (image.width * image.height)


def planted(size: Size, place: tuple[int, int], side: int = 24) -> Question:
    image = Image.new("RGB", size, (90, 90, 90))
    image.paste(RED, (*place, place[0] + side, place[1] + side))
    return Question("What is red?", (view_of(image),))


@pytest.mark.parametrize("tells", [True, False], ids=["probabilities", "words"])
@pytest.mark.parametrize("size", [(1600, 1200), (500, 3000), (3000, 500), (900, 900)])
def test_a_planted_target_is_found(size: Size, tells: bool) -> None:
    rng = random.Random(str(size))
    for _ in range(4):
        place = rng.randrange(size[0] - 24), rng.randrange(size[1] - 24)
        engine = Seeing(tells=tells)
        (answer,) = run(POLICY, engine, [planted(size, place)])
        assert answer.text == "found" and answer.error is None and not answer.truncated
        assert len(engine.requests) <= MOST_CALLS + 1
        look = answer.look
        assert look is not None and look.crop is not None and look.named_by == "given"
        x0, y0, x1, y1 = look.crop
        assert x0 <= place[0] and y0 <= place[1] and place[0] + 24 <= x1 and place[1] + 24 <= y1
        assert (x1 - x0) * (y1 - y0) <= size[0] * size[1] / 6, "it went down, not only to a quarter"


@pytest.mark.parametrize("size", [(20, 20), (1, 1), (1, 3000), (3000, 1), (223, 223), (224, 224)])
def test_no_size_divides_by_nothing(size: Size) -> None:
    engine = Seeing()
    (answer,) = run(POLICY, engine, [Question("What is red?", (view_of(Image.new("RGB", size)),))])
    assert answer.error is None and answer.text == "nothing"
    assert 1 <= len(engine.requests) <= MOST_CALLS + 1
    if max(size) < 2 * LEAST_SIDE:
        assert len(engine.requests) == 1, "too small to be cut: the answer alone is asked"


@pytest.mark.parametrize("most", [0, 3, 4, 8])
def test_calls_are_bounded(most: int) -> None:
    engine = Seeing()
    policy = Tree(POLICY.answers, most)
    (answer,) = run(policy, engine, [planted((4000, 3000), (2000, 1500))])
    assert len(engine.requests) == (0 if most < 4 else most) + 1 and answer.error is None


@pytest.mark.parametrize("window", [(0, 0, 1600, 1200), (37, 11, 537, 3011), (0, 0, 3000, 224)])
def test_parts_cover_their_window_and_stay_inside(window: Window) -> None:
    parts = [part.window for part in parts_of(window)]
    assert len(parts) in (2, 4)
    assert (min(p[0] for p in parts), min(p[1] for p in parts)) == window[:2]
    assert (max(p[2] for p in parts), max(p[3] for p in parts)) == window[2:]
    across = sorted({(p[0], p[2]) for p in parts})
    assert all(right > left for (_, right), (left, _) in pairwise(across)), "overlap"


def test_the_probability_of_yes() -> None:
    def worth(text: str, *top: tuple[str, float]) -> float:
        step = Step(planted((9, 9), (0, 0), 1), (), (), likeliest=tuple((t, math.log(p)) for t, p in top))
        return probability_of_yes(step, text)

    assert worth("Yes", ("Yes", 0.6), (" yes", 0.1), ("No", 0.3)) == pytest.approx(0.7)
    assert worth("Maybe", ("\u2581Yes", 0.2), ("No", 0.6), ("Maybe", 0.2)) == pytest.approx(0.25)
    assert worth("Yesterday", ("Yesterday", 0.9), ("Not", 0.1)) == 0, "other words are neither"
    assert worth("Yes, it can.") == 1 and worth("No.") == 0 and worth("") == 0


def test_a_model_that_thinks_is_judged_by_what_it_says_and_never_by_its_thought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first tokens are those of a thought; one that leaves no room for a yes or no is told."""
    say = Seeing._say

    def thinking(marks: str) -> None:
        def thinks(engine: Seeing, request: Request) -> Generation:
            one = say(engine, request)
            if HOLDS_ANSWER not in request.messages[-1].text:
                return one
            top = (("No", -0.01), ("Yes", -5.0))
            text = marks.format(one.text)
            return replace(one, text=text, top_logprobs=top, thought="" if "think" in marks else "No one")

        monkeypatch.setattr(Seeing, "_say", thinks)

    question = planted((900, 900), (100, 700))
    for marks in ("<think>No one knows.</think>{}", "{}"):
        thinking(marks)
        (answer,) = run(POLICY, Seeing(), [question])
        assert answer.text == "found" and not answer.truncated
        left, top, right, bottom = answer.crop
        assert left <= 100 and right >= 124 and top <= 700 and bottom >= 724
    thinking("<think>No one knows")
    (answer,) = run(POLICY, Seeing(), [question])
    assert answer.truncated, "nothing was found out about any part"


def test_equal_questions_share_their_calls() -> None:
    """Both begin with the same parts: an engine that repeats itself is asked once."""
    question = planted((900, 900), (100, 700))
    engine = Seeing()
    one, two = run(POLICY, engine, [question, question])
    assert isinstance(one, Answer) and one.crop == two.crop
    assert len(engine.requests) <= MOST_CALLS + 1
