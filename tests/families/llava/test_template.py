"""Prompts: the reference's words to the letter, and the mask made while rendering."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from viscot_core.conversation import (
    IMAGE,
    Message,
    answer_turns,
    cot_turns,
    detection_turns,
    direct_turns,
    refcoco_turns,
    text_only_turns,
)
from viscot_core.families.llava.template import TEMPLATES, render

VICUNA = TEMPLATES["vicuna_v1"]


def _turns_of(mode: str, question: str, prompt: str) -> tuple[Message, ...]:
    if mode == "detection":
        return detection_turns(question)
    if mode == "direct":
        return direct_turns(question)
    boxes = re.search(r"ASSISTANT: (\[[^\]]*\])", prompt)
    assert boxes
    if mode.startswith("cot_without_image"):
        return text_only_turns(question, boxes.group(1))
    return answer_turns(question, boxes.group(1))


def test_every_mode_sends_the_reference_prompt(shared: Path) -> None:
    golden = json.loads((shared / "golden/golden_prompts.json").read_text())
    for row in golden["rows"]:
        question = row["det_row"]["expression"]
        for mode in row["modes"]:
            turns = _turns_of(mode["mode"], question, mode["prompt"])
            rendered = render(turns, VICUNA, generate=True)
            assert rendered.text == mode["prompt"]
            if not mode["mode"].startswith("cot_without"):
                assert rendered.n_images == mode["n_images"]
    for row in golden["refcoco"]:
        turns = refcoco_turns(row["row"]["expression"])
        assert render(turns, VICUNA, generate=True).text == row["prompt"]


def test_the_made_benchmark_gets_the_reference_prompts(golden: Path) -> None:
    questions = {
        row["question_id"]: row["expression"]
        for row in map(json.loads, (golden / "e2e/benchmark_det.jsonl").read_text().splitlines())
    }
    for name in ("answer_gt", "answer_direct"):
        for line in (golden / f"e2e/{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            mode = "direct" if name == "answer_direct" else "answer_gt"
            turns = _turns_of(mode, questions[row["question_id"]], row["conversations"])
            assert render(turns, VICUNA, generate=True).text == row["conversations"]


def test_only_the_assistants_words_are_spoken() -> None:
    rendered = render(cot_turns("Where?", "[0.1, 0.2, 0.3, 0.4]", "No"), VICUNA)
    spoken = [chunk.text[a:b] for chunk in rendered.chunks for a, b in chunk.spoken]
    assert spoken == [" [0.1, 0.2, 0.3, 0.4]</s>", " No</s>"]
    assert rendered.n_images == 2


def test_an_image_mark_in_an_answer_is_text() -> None:
    rendered = render([Message("user", "Say it"), Message("assistant", f"It is {IMAGE}")], VICUNA)
    assert rendered.n_images == 0


def test_stage_one_keeps_images_and_captions() -> None:
    rendered = render(
        [Message("user", f"Describe it.\n{IMAGE}"), Message("assistant", "a red kite")], TEMPLATES["plain"]
    )
    assert rendered.text == "<image>a red kite\n"
    assert rendered.chunks[1].spoken == ((0, len("a red kite\n")),)


def test_the_tiny_template_drops_outer_white_space() -> None:
    text = render(direct_turns("What?"), TEMPLATES["tiny"], generate=True).text
    assert text == "Look, then answer. USER: <image>\nWhat? ASSISTANT:"


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="'user' or 'assistant'"):
        render([Message("system", "x")], VICUNA)
