"""Boxes that the reference reads in another way: rows of ``tests/golden_differences.md``."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from viscot_core.boxes.geometry import WHOLE, Box, BoxStatus, crop_window, parse_box
from viscot_core.boxes.registry import codec
from viscot_core.images.view import View
from viscot_core.policies.base import Question, Step
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording
from viscot_core.tasks.base import Item
from viscot_core.tasks.shared_strategies import annotated_box

SIZE = (1000, 1400)


def item(box_text: str) -> Item:
    return Item("dude", 1, "1.jpg", Path("1.jpg"), SIZE, "What?", None, box_text, "42")


@pytest.mark.parametrize("words", ["[0.9, 1.2, 1.4, 1.9]", "[1.1, 1.3, 1.2, 1.5]"])
def test_annotated_words_are_shares_however_large_they_are(words: str) -> None:
    """Where they add up to 5 or more the reference takes them for pixels, and shows the upper left corner."""
    box = annotated_box(item(words))
    assert box == Box(*map(float, words[1:-1].split(",")))
    left, top, right, bottom = crop_window(box, SIZE)
    assert ((right, bottom) == SIZE and left > 0) or top > 0


def test_an_annotated_point_keeps_the_smallest_window() -> None:
    assert crop_window(annotated_box(item("[0.5, 0.5, 0.5, 0.5]")), SIZE) == (388, 588, 612, 812)


@pytest.mark.parametrize(
    "text",
    [
        "[0.500, 0.500, 0.500, 0.500]",  # no area
        "[0.500, 0.500, 0.500, 0.700]",
        "[1e-1, 0.2, 0.3, 0.4]",
        "[0.100, 0.200, 1.060, 0.400]",  # further over the edge than rounding
        "[-0.060, 0.200, 0.300, 0.400]",
        "",
    ],
)
def test_a_model_that_says_this_named_no_region(text: str) -> None:
    parsed = parse_box(text)
    assert (parsed.box, parsed.status) == (WHOLE, BoxStatus.UNPARSABLE)


def test_after_an_empty_box_the_chain_goes_on_with_the_whole_image() -> None:
    question = Question("What?", (View(Image.new("RGB", SIZE), "image"),))
    policy = TwoTurn(Wording(codec("viscot")))
    first = policy.start(question)
    assert isinstance(first, Step)
    second = policy.next(first, "")
    assert isinstance(second, Step) and second.answers
    (look,) = second.looks
    assert (look.status, look.text, look.crop) == (BoxStatus.UNPARSABLE, "", crop_window(WHOLE, SIZE))
