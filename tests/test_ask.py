"""The chain: two turns, equal to the reference's whole run, and what it does when things go wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from viscot_core.boxes.geometry import WHOLE, BoxStatus, CropPolicy, Frame
from viscot_core.chain import Question, VisualCoT
from viscot_core.conversation import answer_turns
from viscot_core.engines.base import Generation, Request
from viscot_core.errors import EngineError, ImageError, UsageError
from viscot_core.families.llava.template import TEMPLATES, Template, render
from viscot_core.images.reading import open_image
from viscot_core.images.view import crop, view_of


class Scripted:
    """An engine that says what it is told to and remembers what it was asked."""

    name = "scripted"
    template: Template = TEMPLATES["vicuna_v1"]

    def __init__(self, *said: str | Generation) -> None:
        self.identity = {"engine": "scripted"}
        self._said = list(said)
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.asked += requests
        out = []
        for _ in requests:
            said = self._said.pop(0)
            out.append(said if isinstance(said, Generation) else Generation(said, 1, True))
        return out


IMAGE = Image.new("RGB", (640, 480), (10, 20, 30))


def test_two_turns() -> None:
    engine = Scripted("[0.500, 0.500, 0.600, 0.600]", "66")
    answer = VisualCoT(engine).ask(IMAGE, "  What Number?  ")
    first, second = engine.asked
    assert "what number?. Please provide the bounding box coordinate" in first.rendered.text
    assert "ASSISTANT: [0.500, 0.500, 0.600, 0.600]</s>USER: <image>\nPlease answer" in second.rendered.text
    assert len(first.views) == 1 and len(second.views) == 2
    assert second.views[0].key == first.views[0].key
    assert second.views[1].image.size == (224, 224)
    assert answer.text == "66" and answer.status is BoxStatus.OK
    assert answer.box.frame is Frame.SQUARE and answer.size == (640, 480)
    left, top, right, bottom = answer.crop
    assert (right - left, bottom - top) == (224, 224)
    assert answer.seconds >= 0


def test_all_first_turns_then_all_second_turns() -> None:
    engine = Scripted("[0.1, 0.1, 0.2, 0.2]", "no box here", "one", "two")
    answers = VisualCoT(engine).ask_many([Question(IMAGE, "a?"), Question(IMAGE, "b?")])
    assert [answer.text for answer in answers] == ["one", "two"]
    assert [answer.status for answer in answers] == [BoxStatus.REPAIRED, BoxStatus.UNPARSABLE]
    assert answers[1].box == WHOLE
    assert answers[1].box_text == "no box here"
    assert [len(request.views) for request in engine.asked] == [1, 1, 2, 2]


def test_direct_asks_once() -> None:
    engine = Scripted("red")
    answer = VisualCoT(engine).ask(IMAGE, "Which?", strategy="direct")
    assert answer.strategy == "direct" and answer.status is None and answer.crop == (0, 0, 640, 480)
    assert len(engine.asked) == 1


class Telling(Scripted):
    """Tells the first half of each answer to whoever wants to hear it."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        said = super().generate(requests)
        for request, one in zip(requests, said, strict=True):
            if request.on_text is not None:
                request.on_text(one.text[: len(one.text) // 2])
        return said


def test_the_answer_is_heard_and_not_the_box() -> None:
    told: list[str] = []
    box = "[0.500, 0.500, 0.600, 0.600]"
    answer = VisualCoT(Telling(box, "abcd")).ask(IMAGE, "?", on_text=told.append)
    assert (answer.text, told) == ("abcd", ["ab"])
    heard: list[tuple[int, str]] = []
    chain = VisualCoT(Telling("xy", "uvwx"))
    chain.ask_many(
        [Question(IMAGE, "a?"), Question(IMAGE, "b?")],
        strategy="direct",
        on_text=lambda number, text: heard.append((number, text)),
    )
    assert heard == [(0, "x"), (1, "uv")]


def test_crop_policy() -> None:
    tight = VisualCoT(Scripted("[0.500, 0.500, 0.600, 0.600]", "x"), CropPolicy.TIGHT).ask(IMAGE, "?")
    assert tight.crop == (320, 240, 384, 304)


def test_an_engine_error_reaches_the_caller() -> None:
    failed = Generation("", 0, False, error="the prompt does not fit")
    with pytest.raises(EngineError, match="does not fit"):
        VisualCoT(Scripted("[0, 0, 1, 1]", failed)).ask(IMAGE, "?")
    (answer,) = VisualCoT(Scripted("[0, 0, 1, 1]", failed)).ask_many([Question(IMAGE, "?")])
    assert answer.error == "the prompt does not fit"


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_empty_question(question: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        VisualCoT(Scripted()).ask(IMAGE, question)


def test_question_with_an_image_mark() -> None:
    with pytest.raises(UsageError, match="<image>"):
        VisualCoT(Scripted()).ask(IMAGE, "What is <image>?")


def test_missing_image() -> None:
    with pytest.raises(ImageError, match="no image at"):
        VisualCoT(Scripted()).ask("nowhere.jpg", "What?")


def test_a_path_is_turned_upright(golden: Path) -> None:
    """EXIF orientation 6: stored 512 x 300, shown 300 x 512."""
    answer = VisualCoT(Scripted("[0, 0, 1, 1]", "x")).ask(golden / "images" / "exif6.jpg", "?")
    assert answer.size == (300, 512)


# -- the reference's own run, whole ------------------------------------------------------------------


def rows(golden: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (golden / "e2e" / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def chain(golden: Path) -> VisualCoT:
    from viscot_core import load

    return load(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def questions(golden: Path) -> list[Question]:
    """The twelve questions; annotated data keep their stored pixels, so images come opened."""
    items = json.loads((golden / "e2e" / "benchmark.json").read_text())
    asked = [row["prompt"].strip() for row in rows(golden, "answer_direct.jsonl")]
    return [
        Question(open_image(golden / "images" / item["image"][0]), text)
        for item, text in zip(items, asked, strict=True)
    ]


def test_boxes_equal_the_reference(golden: Path, chain: VisualCoT, questions: list[Question]) -> None:
    answers = chain.ask_many(questions)
    wanted = rows(golden, "detection.jsonl")
    assert [answer.box_text for answer in answers] == [row["text"] for row in wanted]


def test_answers_equal_the_reference(golden: Path, chain: VisualCoT, questions: list[Question]) -> None:
    """Where the model's own box reached the reference's answer (it stops at a malformed one)."""
    fixed = [row["text"] for row in rows(golden, "detection_fixed.jsonl")]
    answers = chain.ask_many(questions)
    wanted = [row["text"] for row in rows(golden, "answer_pred.jsonl")]
    same = [n for n, answer in enumerate(answers) if answer.box_text == fixed[n]]
    assert len(same) >= 5
    assert [answers[n].text for n in same] == [wanted[n] for n in same]


def test_answers_with_given_boxes_equal_the_reference(
    golden: Path, chain: VisualCoT, questions: list[Question]
) -> None:
    from viscot_core.boxes.geometry import crop_window, parse_box

    for file in ("answer_pred.jsonl", "answer_gt.jsonl"):
        requests = []
        for question, row in zip(questions, rows(golden, file), strict=True):
            said = row["conversations"].split("ASSISTANT: ")[1].split("</s>")[0]
            assert isinstance(question.image, Image.Image)
            view = view_of(question.image)
            window = crop_window(parse_box(said).box, view.image.size)
            rendered = render(answer_turns(question.text, said), chain.engine.template, generate=True)
            assert rendered.text == row["conversations"]
            requests.append(Request(rendered, (view, crop(view, window))))
        given = [generation.text for generation in chain.engine.generate(requests)]
        assert given == [row["text"] for row in rows(golden, file)], file


def test_direct_answers_equal_the_reference(
    golden: Path, chain: VisualCoT, questions: list[Question]
) -> None:
    answers = chain.ask_many(questions, strategy="direct")
    assert [a.text for a in answers] == [row["text"] for row in rows(golden, "answer_direct.jsonl")]
