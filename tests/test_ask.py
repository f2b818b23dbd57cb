"""``VisualCoT``: two turns, equal to the reference's whole run, and what it does when things go wrong."""

from __future__ import annotations

import io
import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripted_engine import ScriptedEngine

from viscot_core.ask import VisualCoT, policy_for
from viscot_core.boxes.geometry import WHOLE, BoxStatus, CropPolicy, Frame
from viscot_core.boxes.registry import codec
from viscot_core.conversation import BOX_REQUEST, answer_turns
from viscot_core.engines.base import Generation, Request
from viscot_core.errors import EngineError, ImageError, UsageError
from viscot_core.images.reading import open_image
from viscot_core.images.view import crop, view_of
from viscot_core.policies.base import Answer
from viscot_core.policies.wording import LETTER, SHORT, Wording

IMAGE = Image.new("RGB", (640, 480), (10, 20, 30))
BOX = "[0.500, 0.500, 0.600, 0.600]"


def test_two_turns() -> None:
    engine = ScriptedEngine(BOX, "66")
    answer = VisualCoT(engine).ask(IMAGE, "  What Number?  ")
    first, second = engine.requests
    assert "what number?. Please provide the bounding box coordinate" in engine.prompt(first.messages)
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1].text == BOX
    assert second.messages[2].text.startswith("<image>\nPlease answer")
    assert len(first.images) == 1 and len(second.images) == 2
    assert second.images[0].key == first.images[0].key
    assert second.images[1].image.size == (224, 224)
    assert answer.text == "66" and answer.status is BoxStatus.OK and answer.box_text == BOX
    assert answer.box.frame is Frame.SQUARE and answer.size == (640, 480)
    left, top, right, bottom = answer.crop
    assert (right - left, bottom - top) == (224, 224)
    assert answer.seconds >= 0 and answer.error is None


def test_all_first_turns_then_all_second_turns() -> None:
    engine = ScriptedEngine("[0.1, 0.1, 0.2, 0.2]", "no box here", "one", "two")
    answers = VisualCoT(engine).ask_many([(IMAGE, "a?"), (IMAGE, "b?")])
    assert [answer.text for answer in answers] == ["one", "two"]
    assert [answer.status for answer in answers] == [BoxStatus.REPAIRED, BoxStatus.UNPARSABLE]
    assert answers[1].box == WHOLE
    assert answers[1].box_text == "no box here"
    assert [len(request.images) for request in engine.requests] == [1, 1, 2, 2]


def test_direct_asks_once() -> None:
    engine = ScriptedEngine("red")
    answer = VisualCoT(engine).ask(IMAGE, "Which?", strategy="direct")
    assert answer.policy == "direct" and answer.status is None and answer.crop == (0, 0, 640, 480)
    assert len(engine.requests) == 1


def test_a_strategy_is_a_policy_by_its_public_name() -> None:
    wording = Wording(codec("viscot"))
    assert [policy_for(name, wording).name for name in ("cot", "direct")] == ["two_turn", "direct"]
    with pytest.raises(UsageError, match="no strategy 'dirct'"):
        policy_for("dirct", wording)


def test_the_answer_is_streamed_and_the_box_is_not() -> None:
    told: list[str] = []
    answer = VisualCoT(ScriptedEngine(BOX, "abcd")).ask(IMAGE, "?", on_text=told.append)
    assert (answer.text, told) == ("abcd", ["ab", "abcd"])
    streamed: list[tuple[int, str]] = []
    VisualCoT(ScriptedEngine("xy", "uvwx")).ask_many(
        [(IMAGE, "a?"), (IMAGE, "b?")],
        strategy="direct",
        on_text=lambda number, text: streamed.append((number, text)),
    )
    assert streamed == [(0, "x"), (0, "xy"), (1, "uv"), (1, "uvwx")]


def test_max_new_tokens_bounds_the_box_and_the_answer() -> None:
    engine = ScriptedEngine(BOX, "x")
    VisualCoT(engine).ask(IMAGE, "?", max_new_tokens=7)
    assert [request.max_new_tokens for request in engine.requests] == [7, 7]


def test_crop_policy() -> None:
    tight = VisualCoT(ScriptedEngine(BOX, "x"), CropPolicy.TIGHT).ask(IMAGE, "?")
    assert tight.crop == (320, 240, 384, 304)


def test_a_model_of_another_family_is_asked_and_read_in_its_own_format() -> None:
    engine = ScriptedEngine("(250,500),(500,1000)", "x")
    answer = VisualCoT(engine, wording=Wording(codec("qwen2-vl"))).ask(IMAGE, "?")
    assert "(x1,y1),(x2,y2)" in engine.prompt(engine.requests[0].messages)
    assert answer.status is BoxStatus.OK and answer.look is not None
    assert answer.look.box_pixels.coords == (160, 240, 320, 480)


@pytest.mark.parametrize("suffix", [SHORT, LETTER])
def test_the_form_of_an_answer_is_not_asked_of_a_box(suffix: str) -> None:
    """One rule for infer, serve and bench: the suffix is left out of turn 1 and ends turn 2."""
    engine = ScriptedEngine(BOX, "x", BOX, "x")
    cot = VisualCoT(engine)
    cot.ask(IMAGE, f"Which one?{suffix}")
    first, second = engine.requests
    assert first.messages[0].text == f"<image>\nwhich one?. {BOX_REQUEST}"
    assert suffix not in second.messages[0].text
    assert second.messages[-1].text.endswith(f"Which one?{suffix} ")


# -- failures ----------------------------------------------------------------------------------------


def test_an_engine_error_reaches_the_caller() -> None:
    failed = Generation("", 0, False, error="the prompt does not fit")
    with pytest.raises(EngineError, match="does not fit"):
        VisualCoT(ScriptedEngine("[0, 0, 1, 1]", failed)).ask(IMAGE, "?")
    (answer,) = VisualCoT(ScriptedEngine("[0, 0, 1, 1]", failed)).ask_many([(IMAGE, "?")])
    assert answer.error == "the prompt does not fit"


def test_a_failed_first_turn_costs_no_second_call() -> None:
    engine = ScriptedEngine(Generation("", 0, False, error="the prompt does not fit"))
    with pytest.raises(EngineError, match="does not fit"):
        VisualCoT(engine).ask(IMAGE, "?")
    assert len(engine.requests) == 1


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_empty_question(question: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        VisualCoT(ScriptedEngine()).ask(IMAGE, question)


def test_question_with_an_image_mark() -> None:
    with pytest.raises(UsageError, match="<image>"):
        VisualCoT(ScriptedEngine()).ask(IMAGE, "What is <image>?")


def test_missing_image() -> None:
    with pytest.raises(ImageError, match="no image at"):
        VisualCoT(ScriptedEngine()).ask("nowhere.jpg", "What?")


def test_a_path_is_turned_upright(golden: Path) -> None:
    """EXIF orientation 6: stored 512 x 300, shown 300 x 512."""
    answer = VisualCoT(ScriptedEngine("[0, 0, 1, 1]", "x")).ask(golden / "images" / "exif6.jpg", "?")
    assert answer.size == (300, 512)


# -- the reference's own run, whole ------------------------------------------------------------------

Questions = list[tuple[Image.Image, str]]


def rows(golden: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (golden / "e2e" / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def cot(golden: Path) -> VisualCoT:
    from viscot_core import load

    return load(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def questions(golden: Path) -> Questions:
    """The twelve questions; annotated data keep their stored pixels, so images come opened."""
    items = json.loads((golden / "e2e" / "benchmark.json").read_text())
    asked = [row["prompt"].strip() for row in rows(golden, "answer_direct.jsonl")]
    return [
        (open_image(golden / "images" / item["image"][0]), text)
        for item, text in zip(items, asked, strict=True)
    ]


def test_boxes_equal_the_reference(golden: Path, cot: VisualCoT, questions: Questions) -> None:
    answers = cot.ask_many(questions)
    wanted = rows(golden, "detection.jsonl")
    assert [answer.box_text for answer in answers] == [row["text"] for row in wanted]


def test_answers_equal_the_reference(golden: Path, cot: VisualCoT, questions: Questions) -> None:
    """Where the model's own box reached the reference's answer (it stops at a malformed one)."""
    fixed = [row["text"] for row in rows(golden, "detection_fixed.jsonl")]
    answers = cot.ask_many(questions)
    wanted = [row["text"] for row in rows(golden, "answer_pred.jsonl")]
    same = [n for n, answer in enumerate(answers) if answer.box_text == fixed[n]]
    assert len(same) >= 5
    assert [answers[n].text for n in same] == [wanted[n] for n in same]


def test_answers_with_given_boxes_equal_the_reference(
    golden: Path, cot: VisualCoT, questions: Questions
) -> None:
    from viscot_core.boxes.geometry import crop_window, parse_box

    for file in ("answer_pred.jsonl", "answer_gt.jsonl"):
        requests = []
        for (image, text), row in zip(questions, rows(golden, file), strict=True):
            box_text = row["conversations"].split("ASSISTANT: ")[1].split("</s>")[0]
            view = view_of(image)
            window = crop_window(parse_box(box_text).box, view.image.size)
            messages = answer_turns(text, box_text)
            assert cot.engine.prompt(messages) == row["conversations"]
            requests.append(Request(messages, (view, crop(view, window))))
        given = [generation.text for generation in cot.engine.generate(requests)]
        assert given == [row["text"] for row in rows(golden, file)], file


def test_direct_answers_equal_the_reference(golden: Path, cot: VisualCoT, questions: Questions) -> None:
    answers = cot.ask_many(questions, strategy="direct")
    assert [a.text for a in answers] == [row["text"] for row in rows(golden, "answer_direct.jsonl")]


# -- what an answer can show -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["path", "PIL", "bytes", "array", "file"])
def test_an_answer_draws_itself(way: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    IMAGE.save(path)
    source: Any = {
        "path": path,
        "PIL": IMAGE,
        "bytes": path.read_bytes(),
        "array": np.asarray(IMAGE),
        "file": path.open("rb"),
    }[way]
    answer = VisualCoT(ScriptedEngine(BOX, "red")).ask(source, "Which?")
    assert answer.image.size == IMAGE.size and answer.question == "Which?"
    left, top, right, bottom = answer.crop
    assert answer.crop_image.size == (right - left, bottom - top)
    assert answer.box_pixels is not None and answer.look is not None
    assert answer.box_pixels.coords == answer.look.box_pixels.coords
    png = answer._repr_png_()
    assert png is not None and Image.open(io.BytesIO(png)).size == answer.draw().size
    plain = answer.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["answer"], plain["box_status"], plain["crop"]) == ("red", "ok", [*answer.crop])


@pytest.mark.parametrize("way", ["path", "bytes", "file", "pipe"])
def test_an_answer_keeps_its_page(way: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    others = [Image.new("RGB", IMAGE.size, color) for color in ("red", "lime")]
    IMAGE.save(path, save_all=True, append_images=others)
    if way == "pipe":
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_bytes, args=(path.read_bytes(),), daemon=True).start()
    sources: dict[str, Any] = {"bytes": path.read_bytes(), "file": path.open("rb")}
    source = sources.get(way, tmp_path / "pipe" if way == "pipe" else path)
    answer = VisualCoT(ScriptedEngine(BOX, "red")).ask(source, "Which?", page=3)
    assert (answer.page, answer.to_dict()["page"]) == (3, 3)
    if way == "path":
        assert answer.source == path and len(pickle.dumps(answer)) < 2000
    for one in (answer, pickle.loads(pickle.dumps(answer))):
        assert one.image.getpixel((0, 0)) == one.crop_image.getpixel((0, 0)) == (0, 255, 0)
        assert one._repr_png_()
    assert "page" not in VisualCoT(ScriptedEngine(BOX, "red")).ask(IMAGE, "Which?").to_dict()


@pytest.mark.parametrize("tokens", [0, -1, 1.5, "9"])
def test_no_answer_has_less_than_one_token(tokens: Any) -> None:
    cot = VisualCoT(ScriptedEngine())
    with pytest.raises(UsageError, match="max_new_tokens is a whole number, 1 or more, not"):
        cot.ask(IMAGE, "Which?", max_new_tokens=tokens)
    with pytest.raises(UsageError, match="max_new_tokens"):
        cot.ask_many([(IMAGE, "Which?")], strategy="direct", max_new_tokens=tokens)


def test_an_answer_without_an_image(tmp_path: Path) -> None:
    answer = Answer("red", (9, 9))
    assert answer._repr_png_() is None and answer.box_pixels is None and answer.to_dict()["box"] is None
    with pytest.raises(UsageError, match="has no image"):
        answer.draw()
    IMAGE.save(tmp_path / "a.png")
    answer = VisualCoT(ScriptedEngine("red")).ask(tmp_path / "a.png", "?", strategy="direct")
    IMAGE.resize((9, 9)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="ask again"):
        answer.draw()


def test_a_given_box_is_looked_at() -> None:
    engine = ScriptedEngine("red")
    answer = VisualCoT(engine).ask(IMAGE, "Which?", box=(320, 240, 700, 300))
    assert answer.box_pixels is not None and answer.box_pixels.coords == (320, 240, 640, 300)
    assert len(engine.requests) == 1 and answer.look is not None and answer.look.named_by == "given"
    for box in (
        (1, 2, 3),
        (5, 5, 5, 5),
        (9, 9, 1, 1),
        (float("nan"), 0, 1, 1),
        (700, 0, 800, 9),
        (0.3, 0.5, 0.5, 0.7),
    ):
        with pytest.raises(UsageError, match=r"[bB]ox"):
            VisualCoT(ScriptedEngine()).ask(IMAGE, "Which?", box=box)
    with pytest.raises(UsageError, match="direct"):
        VisualCoT(ScriptedEngine()).ask(IMAGE, "Which?", box=(1, 1, 9, 9), strategy="direct")


@pytest.mark.parametrize("question", ["a\ud83dz", "caf\udce9"])
def test_a_question_that_is_no_text(question: str) -> None:
    with pytest.raises(UsageError, match="damaged character"):
        VisualCoT(ScriptedEngine()).ask(IMAGE, question)
