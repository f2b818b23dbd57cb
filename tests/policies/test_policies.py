"""The policies as state machines: what each says to the model and shows it, and how it reads the words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from viscot_core.boxes.geometry import WHOLE, Box, BoxStatus, CropPolicy
from viscot_core.boxes.registry import codec
from viscot_core.conversation import (
    IMAGE,
    answer_turns,
    detection_turns,
    direct_turns,
    refcoco_turns,
    text_only_turns,
)
from viscot_core.images.view import View
from viscot_core.policies.base import Answer, Policy, Question, Step
from viscot_core.policies.direct import Direct
from viscot_core.policies.given_box import GivenBox
from viscot_core.policies.locate import Locate
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording

WORDING = Wording(codec("viscot"))
VIEW = View(Image.new("RGB", (640, 480)), "image")
BOX = "[0.500, 0.500, 0.600, 0.600]"
QUESTION = Question("What Number?", (VIEW,), max_new_tokens=9, stop=("\n",))
ALL: tuple[Policy, ...] = (Direct(WORDING), TwoTurn(WORDING), GivenBox(WORDING), Locate(WORDING))


def step_of(outcome: Step | Answer) -> Step:
    assert isinstance(outcome, Step)
    return outcome


def answer_of(outcome: Step | Answer) -> Answer:
    assert isinstance(outcome, Answer)
    return outcome


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
def test_a_policy_keeps_nothing_between_questions(policy: Policy) -> None:
    """Two questions in turn, then the first again: all that a question has come to is in its step."""
    one = replace(QUESTION, box=Box(0.5, 0.5, 0.6, 0.6))
    other = replace(one, text="Which?", box=Box(0.1, 0.1, 0.2, 0.2))

    def through(question: Question, interleaved: bool) -> list[Step | Answer]:
        outcomes: list[Step | Answer] = [policy.start(question)]
        while isinstance(step := outcomes[-1], Step):
            if interleaved:
                policy.next(policy.start(other), "[0.900, 0.900, 0.950, 0.950]")
            outcomes.append(policy.next(step, BOX))
        return [replace(each, images=()) if isinstance(each, Step) else each for each in outcomes]

    assert through(one, interleaved=True) == through(one, interleaved=False)


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
def test_every_step_has_as_many_images_as_slots(policy: Policy) -> None:
    outcome: Step | Answer = policy.start(replace(QUESTION, box=Box(0.5, 0.5, 0.6, 0.6)))
    while isinstance(outcome, Step):
        assert sum(message.text.count(IMAGE) for message in outcome.messages) == len(outcome.images)
        outcome = policy.next(outcome, BOX)
    assert outcome.policy == policy.name and outcome.size == (640, 480)


def test_only_the_answer_is_bounded_as_the_question_says() -> None:
    first = step_of(TwoTurn(WORDING, box_tokens=30).start(QUESTION))
    assert (first.max_new_tokens, first.stop, first.answers) == (30, (), False)
    second = step_of(TwoTurn(WORDING).next(first, BOX))
    assert (second.max_new_tokens, second.stop, second.answers) == (9, ("\n",), True)


# -- direct ------------------------------------------------------------------------------------------


def test_direct_asks_once_and_takes_the_words_as_they_are() -> None:
    step = Direct(WORDING).start(QUESTION)
    assert step.messages == direct_turns("What Number?") and step.images == (VIEW,) and step.answers
    answer = Direct(WORDING).next(step, BOX)
    assert (answer.text, answer.looks, answer.status) == (BOX, (), None)
    assert answer.box == WHOLE and answer.crop == (0, 0, 640, 480)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_direct_takes_any_number_of_images(count: int) -> None:
    step = Direct(WORDING).start(replace(QUESTION, images=(VIEW,) * count))
    (message,) = step.messages
    assert message.text == f"{IMAGE}\n" * count + "What Number?" and len(step.images) == count


# -- two turns ---------------------------------------------------------------------------------------


def test_two_turns_are_the_papers() -> None:
    policy = TwoTurn(WORDING)
    first = policy.start(QUESTION)
    assert first.messages == detection_turns("What Number?") and first.images == (VIEW,)
    second = step_of(policy.next(first, BOX))
    assert second.messages == answer_turns("What Number?", BOX)
    assert [view.image.size for view in second.images] == [(640, 480), (224, 224)]
    assert second.images[1].key == "image###[240, 160, 464, 384]"
    answer = answer_of(policy.next(second, "66"))
    assert answer.text == "66" and answer.looks == second.looks
    look = answer.looks[0]
    assert (look.status, look.crop, look.named_by) == (BoxStatus.OK, (240, 160, 464, 384), "model")


def test_a_region_that_cannot_be_read_is_answered_from_the_whole_image() -> None:
    policy = TwoTurn(WORDING)
    second = step_of(policy.next(policy.start(QUESTION), "over there"))
    assert second.messages[1].text == "over there", "the model sees its own words again"
    (look,) = second.looks
    assert (look.box, look.status, look.crop) == (WHOLE, BoxStatus.UNPARSABLE, (0, 0, 640, 480))


def test_the_crop_policy_decides_the_window() -> None:
    policy = TwoTurn(WORDING, CropPolicy.TIGHT)
    second = step_of(policy.next(policy.start(QUESTION), BOX))
    assert second.looks[0].crop == (320, 240, 384, 304)


def test_without_a_crop_the_region_is_repeated_in_words_only() -> None:
    policy = TwoTurn(WORDING, shows_crop=False)
    second = step_of(policy.next(policy.start(QUESTION), BOX))
    assert second.messages == text_only_turns("What Number?", BOX) and second.images == (VIEW,)
    assert second.looks[0].crop is None and second.looks[0].status is BoxStatus.OK


def test_only_the_first_image_of_a_question_is_looked_at() -> None:
    other = View(Image.new("RGB", (50, 50)), "other")
    policy = TwoTurn(WORDING)
    first = policy.start(replace(QUESTION, images=(VIEW, other)))
    second = step_of(policy.next(first, BOX))
    assert first.images == (VIEW,) and second.images[0].key == "image"


def test_a_region_is_read_in_the_familys_own_words() -> None:
    """Gemini: thousandths, y first."""
    policy = TwoTurn(Wording(codec("gemini")))
    reply = '[{"box_2d": [500, 250, 1000, 500], "label": "region"}]'
    second = step_of(policy.next(policy.start(QUESTION), reply))
    (look,) = second.looks
    assert look.box_pixels.coords == (160, 240, 320, 480) and look.status is BoxStatus.OK


# -- a given box -------------------------------------------------------------------------------------


def test_a_given_box_is_turn_two_alone() -> None:
    policy = GivenBox(WORDING)
    step = policy.start(replace(QUESTION, box=Box(0.5, 0.5, 0.6, 0.6)))
    assert step.messages == answer_turns("What Number?", BOX) and step.answers
    (look,) = step.looks
    assert (look.status, look.named_by, look.text) == (None, "given", BOX)
    assert answer_of(policy.next(step, "66")).looks == step.looks


def test_a_given_box_is_quoted_where_its_words_are_known() -> None:
    quoted = replace(QUESTION, box=Box(0.5, 0.5, 0.6, 0.6), box_text="[0.50, 0.50, 0.60, 0.60]")
    assert GivenBox(WORDING).start(quoted).messages[1].text == "[0.50, 0.50, 0.60, 0.60]"


def test_a_given_box_has_to_be_given() -> None:
    with pytest.raises(ValueError, match="needs a box"):
        GivenBox(WORDING).start(QUESTION)


# -- locate ------------------------------------------------------------------------------------------


def test_locating_is_one_step_whose_answer_is_the_region() -> None:
    policy = Locate(WORDING)
    step = policy.start(replace(QUESTION, text="The Red Card"))
    assert step.messages == refcoco_turns("The Red Card") and step.answers
    answer = policy.next(step, BOX)
    assert (answer.text, answer.box, answer.status) == (BOX, Box(0.5, 0.5, 0.6, 0.6), BoxStatus.OK)
    assert answer.looks[0].crop is None and answer.crop == (0, 0, 640, 480)
    assert policy.next(step, "nowhere").status is BoxStatus.UNPARSABLE
