"""What the benchmark says to the model; the paper's exact prompts are held in test_golden."""

from __future__ import annotations

import pytest

from viscot_core.boxes.registry import codec
from viscot_core.conversation import ANSWER_REQUEST, BOX_REQUEST, answer_turns, detection_turns
from viscot_core.policies.wording import LETTER, SHORT, Protocol, Wording, suffix_of

BOX = "[0.100, 0.200, 0.300, 0.400]"


@pytest.mark.parametrize("suffix", [SHORT, LETTER])
@pytest.mark.parametrize("protocol", ["paper", "native"])
@pytest.mark.parametrize("family", ["viscot", "qwen3-vl"])
def test_a_form_of_answer_is_asked_for_once_and_never_of_a_box(
    suffix: str, protocol: Protocol, family: str
) -> None:
    wording = Wording(codec(family), protocol)
    question = f"What is it?{suffix}"
    assert wording.detection(question) == wording.detection("What is it?")
    turns = wording.answer(question, BOX)
    assert [suffix.strip() in turn.text for turn in turns] == [False] * (len(turns) - 1) + [True]
    assert suffix in wording.direct(question)[-1].text


def test_other_questions_are_the_papers_to_the_letter() -> None:
    wording = Wording(codec("viscot"))
    assert wording.detection("What is it?") == detection_turns("What is it?")
    assert wording.answer("What is it?", BOX) == answer_turns("What is it?", BOX)
    assert wording.detection("What is it?")[0].text.endswith(BOX_REQUEST)
    assert ANSWER_REQUEST in wording.answer("What is it?", BOX)[-1].text


def test_a_suffix_stands_at_the_end() -> None:
    assert suffix_of(f"{SHORT} Or two?") == suffix_of("What is it?") == ""
