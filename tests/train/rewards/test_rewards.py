"""Rewards, and the ways a model could earn them without looking better: each way earns nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from viscot_core.boxes.geometry import Box, BoxStatus, Frame
from viscot_core.errors import UsageError
from viscot_core.policies.base import Look
from viscot_core.score.base import Done
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State
from viscot_core.train.rewards.attempt import Attempt
from viscot_core.train.rewards.named import REWARDS, earn, rewards_of, without_spread
from viscot_core.train.rewards.parts import Judged

SIZE = (400, 300)
WANTED = (100.0, 60.0, 200.0, 160.0)
WHOLE = (0.0, 0.0, 400.0, 300.0)


def look(box: tuple[float, ...] = WANTED, **facts: Any) -> Look:
    crop = tuple(int(c) for c in box) if all(map(math.isfinite, box)) else WHOLE
    made = {"status": BoxStatus.OK, "crop": crop, "text": f"{box}", **facts}
    return Look(Box(*box, frame=Frame.ORIGINAL).to_square(SIZE), size=SIZE, **made)


def attempt(*looks: Look, answer: str = "a fox", **facts: Any) -> Attempt:
    known = {"reference": "a fox", "box": Box(*WANTED, frame=Frame.ORIGINAL), "tokens": 20, **facts}
    return Attempt("What is it?", answer, looks, SIZE, **known)


def value(reward: str, *group: Attempt) -> float | None:
    (earned, *_) = earn(rewards_of(reward), group)
    return earned.total


def test_one_good_look_earns_everything() -> None:
    good = attempt(look())
    for name in ("answer", "answer:anls", "iou", "iou-graded", "format", "tool-bonus"):
        assert value(name, good) == pytest.approx(1.0), name
    assert value("length:100", good) == 0.0
    assert value("iou,answer=0.5,format=-2", good) == pytest.approx(-0.5)


def test_iou_rises_with_the_overlap_and_its_steps_are_fifths() -> None:
    boxes = [(100.0 + shift, 60.0, 200.0 + shift, 160.0) for shift in (0, 2, 10, 20, 60, 150)]
    gains = [value("iou", attempt(look(box))) for box in boxes]
    assert gains == sorted(gains, reverse=True) and gains[-1] == 0.0
    # IoU 90/110 = 0.818; the whole image's is 10000/120000: (0.818 - 0.083) / (1 - 0.083).
    assert gains[2] == pytest.approx((90 / 110 - 1 / 12) / (11 / 12))
    steps = [value("iou-graded", attempt(look(box))) for box in boxes]
    assert steps == pytest.approx([1.0, 1.0, 0.8, 0.4, 0.0, 0.0])


@pytest.mark.parametrize("wanted", [WANTED, (10.0, 10.0, 390.0, 290.0)])
def test_the_whole_image_as_box_earns_nothing_however_large_the_region(wanted: tuple[float, ...]) -> None:
    lazy = attempt(look(WHOLE), box=Box(*wanted, frame=Frame.ORIGINAL))
    for name in ("iou", "iou-graded", "tool-bonus"):
        assert value(name, lazy) == pytest.approx(0.0), name
    nearly = attempt(look((0.0, 0.0, 399.0, 300.0)), box=Box(*WANTED, frame=Frame.ORIGINAL))
    assert (value("iou", nearly) or 0.0) < 0.01
    # Larger than the image: clipped, so the same as the whole of it.
    assert value("iou", attempt(look((-500.0, -500.0, 900.0, 900.0)))) == pytest.approx(0.0)


def test_a_region_that_is_the_whole_image_is_named_right_by_it() -> None:
    assert value("iou", attempt(look(WHOLE), box=Box(*WHOLE, frame=Frame.ORIGINAL))) == pytest.approx(1.0)


def test_a_spray_of_boxes_earns_the_mean() -> None:
    one = value("iou", attempt(look()))
    others = [look((x, 200.0, x + 60, 260.0)) for x in (0.0, 80.0, 160.0)]
    assert value("iou", attempt(look(), *others)) == pytest.approx((one or 0) / 4)
    # One reply with nine boxes, of which only the first is looked at.
    spray = attempt(look(boxes=9))
    assert value("iou", spray) == pytest.approx((one or 0) / 9)
    assert value("format", spray) == 0.0
    # Calls of that turn that were refused count too.
    assert value("iou", attempt(look(), refused=(1, 1, 1))) == pytest.approx((one or 0) / 4)


def test_the_last_turn_is_what_counts() -> None:
    assert value("iou", attempt(look(turn=1), look((300.0, 200.0, 380.0, 280.0), turn=2))) == 0.0
    assert value("iou", attempt(look(WHOLE, turn=1), look(turn=2))) == pytest.approx(1.0)


def test_a_call_after_the_answer_earns_neither_form_nor_bonus() -> None:
    late = attempt(late=1)
    assert (value("format", late), value("tool-bonus", late), value("iou", late)) == (0.0, 0.0, 0.0)
    assert value("curiosity", late) == 0.0
    assert value("answer", late) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_earn_nothing_and_stay_out_of_the_total(bad: float) -> None:
    wrong = attempt(look((bad, 60.0, 200.0, 160.0), crop=(0, 0, 400, 300)))
    for name in ("iou", "iou-graded", "format", "tool-bonus"):
        assert value(name, wrong) == 0.0, name
    # In the annotation it is nobody's fault: not known, and no total.
    unknown = attempt(look(), box=Box(bad, 60.0, 200.0, 160.0, Frame.ORIGINAL))
    assert value("iou", unknown) is None
    assert value("iou,answer", unknown) is None


def test_an_unreadable_region_is_no_look() -> None:
    blind = attempt(look(WHOLE, status=BoxStatus.UNPARSABLE), box=Box(*WHOLE, frame=Frame.ORIGINAL))
    for name in ("iou", "format", "tool-bonus", "curiosity"):
        assert value(name, blind) == 0.0, name
    assert value("format", attempt(look(status=BoxStatus.REPAIRED))) == 0.0


def test_a_given_region_is_no_look_of_the_models() -> None:
    given = attempt(look(named_by="given", status=None))
    assert (value("iou", given), value("tool-bonus", given), value("curiosity", given)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("answer", ["", "  \n", "a fox or a dog or a cat", "a dog"])
def test_empty_answers_and_lists_of_answers_are_wrong(answer: str) -> None:
    for name in ("answer", "answer:relaxed", "tool-bonus"):
        assert value(name, attempt(look(), answer=answer)) == 0.0, name
    assert value("answer", attempt(look(), stop="length")) == 0.0
    assert value("answer", attempt(look(), answer="", reference="")) is None
    assert value("answer", attempt(look(), reference=None)) is None


def test_measures_that_a_list_of_answers_satisfies_are_not_offered() -> None:
    for measure in ("contains", "yes-no"):
        with pytest.raises(UsageError, match="is one of"):
            rewards_of(f"answer:{measure}")


def test_curiosity_pays_the_few_who_look_and_nobody_once_enough_do() -> None:
    looked, blind = attempt(look()), attempt()
    earned = earn(rewards_of("curiosity:0.5"), [looked, blind, blind, blind])
    assert [one.total for one in earned] == [0.25, 0.0, 0.0, 0.0]
    assert all(one.total == 0.0 for one in earn(rewards_of("curiosity:0.5"), [looked, looked, blind]))
    # A look at the whole image does not count, so neither does it end the reward for others.
    lazy = attempt(look(WHOLE))
    assert [one.total for one in earn(rewards_of("curiosity:0.5"), [looked, lazy])] == [0.0, 0.0]
    assert [one.total for one in earn(rewards_of("curiosity:0.9"), [looked, lazy])] == [0.4, 0.0]


def test_of_an_attempt_that_failed_nothing_is_known() -> None:
    """A call without a reply is no wrong answer, and no attempt without a look."""
    group = [attempt(look()), attempt(answer="", stop="error"), attempt()]
    for name in REWARDS:
        good, failed, _ = earn(rewards_of(name), group)
        assert good.total is not None and failed.total is None, name
        assert failed.parts[name].why == "the attempt failed"
    assert earn(rewards_of("curiosity:1"), group)[0].total == pytest.approx(0.5), "one of two looked closer"


def test_length_costs_from_half_on() -> None:
    costs = [value("length:100", attempt(tokens=tokens)) for tokens in (0, 50, 75, 100, 5000)]
    assert costs == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert value("length", attempt(tokens=None)) is None


class _Judge:
    identity = JudgeIdentity.now("made up", "made up", None, None)

    def __init__(self) -> None:
        self.asked: list[Pair] = []

    def judge(self, pairs: Any, done: Done) -> None:
        self.asked += pairs
        for pair in pairs:
            if pair.answer == "a fox":
                done(pair, Outcome(State.SCORED, 0.8))
            elif pair.answer != "stopped early":
                done(pair, Outcome(State.UNSCORED))


def test_a_judge_is_asked_once_a_pair_and_silence_is_not_zero() -> None:
    judge = _Judge()
    group = [attempt(), attempt(), attempt(answer="?"), attempt(answer="stopped early"), attempt(answer="")]
    parts = Judged(lambda: judge)(group)
    assert [part.value for part in parts] == [0.8, 0.8, None, None, 0.0]
    assert [pair.answer for pair in judge.asked] == ["a fox", "?", "stopped early"]


def test_groups_without_a_spread_are_counted() -> None:
    assert without_spread([[1.0, 1.0], [0.5, 0.5 + 1e-12, 0.5], [0.0, 1.0], [1.0]]) == 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "at least one reward"),
        ("iuo", "Did you mean 'iou'"),
        ("iou=nan", "finite number"),
        ("iou=0", "other than 0"),
        ("iou=much", "needs a number"),
        ("iou,iou=2", "stands twice"),
        ("iou:3", "no settings"),
        ("curiosity:2", "from 0 to 1"),
        ("curiosity:nan", "from 0 to 1"),
        ("length:1", "2 or more"),
        ("length:nan", "2 or more"),
        ("length:inf", "2 or more"),
        ("answer:exatc", "Did you mean 'exact'"),
    ],
)
def test_wrong_specs_get_a_sentence(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rewards_of(spec)


def test_every_reward_is_finite_on_every_attempt_here() -> None:
    hostile = [
        attempt(),
        attempt(look((math.nan,) * 4, crop=None), answer=""),
        attempt(look((200.0, 160.0, 100.0, 60.0), crop=None)),
        attempt(look(image=3)),
        replace(attempt(look()), size=None),
        attempt(stop="error", tokens=10**9),
    ]
    for name in REWARDS:
        for earned in earn(rewards_of(name), hostile):
            assert earned.total is None or math.isfinite(earned.total)
