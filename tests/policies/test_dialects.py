"""The dialects of the zoom tool: their authors' words, and golden crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from PIL import Image
from scripted_engine import ScriptedEngine
from zoom_talks import CROP, TALKS, VIEW, json_call, native, noise, talk

from viscot_core.conversation import IMAGE, Message, ToolCall, split_calls, with_calls
from viscot_core.images.view import crop, view_of
from viscot_core.policies.base import Question
from viscot_core.policies.dialects import mini_o3, qwen
from viscot_core.policies.dialects.known import DIALECTS, dialect
from viscot_core.policies.zoom import CROPS_FROM, Zoom
from viscot_core.rollout import run

TEMPLATES = Path(__file__).parent.parent / "support" / "chat_templates"


def test_every_dialect_has_a_talk() -> None:
    assert set(TALKS) == set(DIALECTS)


@pytest.mark.parametrize("name", TALKS)
def test_golden_crops(name: str) -> None:
    said, text, windows, sizes = TALKS[name]
    answer = talk(name, *said)
    assert (answer.text, answer.stop, answer.refusals) == (text, "answer", ())
    assert [look.crop for look in answer.looks] == windows
    assert [look.shown for look in answer.looks] == sizes
    rules = dialect(name).rules
    for look in answer.looks:
        assert look.crop is not None and look.shown is not None
        part = crop(VIEW, look.crop).image
        resample = Image.Resampling.LANCZOS if rules.resample == "lanczos" else Image.Resampling.BICUBIC
        shown = part if part.size == look.shown else part.resize(look.shown, resample)
        assert look.crop_hash == view_of(shown).key


# -- the words around a call -------------------------------------------------------------------------


def rendered(template: str, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
    """What a model's own template makes of a talk."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = json.dumps  # transformers' own filter: letters stay as they are

    def fail(reason: str) -> None:
        raise ValueError(reason)

    environment.globals["raise_exception"] = fail
    source = (TEMPLATES / f"{template}.jinja").read_text()
    return environment.from_string(source).render(messages=messages, tools=tools, add_generation_prompt=True)


def content(text: str) -> list[dict[str, str]]:
    """A text with image slots as the engines send it: a line break behind an image is taken away."""
    first, *rest = text.split(IMAGE)
    parts = [{"type": "text", "text": first}] if first else []
    for part in rest:
        parts.append({"type": "image"})
        if words := part.removeprefix("\n"):
            parts.append({"type": "text", "text": words})
    return parts


@pytest.mark.parametrize(("name", "template"), [("qwen3-vl", "qwen3_vl"), ("qwen3.5", "qwen3_5_nothink")])
def test_qwens_talk_is_the_one_that_its_template_writes_for_tools(name: str, template: str) -> None:
    """System block, call and tool's answer: what viscot says in plain messages is the same text."""
    said, *_ = TALKS[name]
    answer = talk(name, *said)
    plain = [
        {"role": m.role, "content": content(m.text) if m.role == "user" else m.text}
        for m in answer.messages[:-1]
    ]
    image: dict[str, Any] = {"type": "image"}
    arguments = [{"bbox_2d": [500, 250, 1000, 750], "label": "the sign", "img_idx": 0}]
    arguments += [{"bbox_2d": [0, 0, 500, 500], "label": "the sign", "img_idx": 1}]
    if name == "qwen3-vl":
        arguments = [{**each, "label": "sign"} for each in arguments]
    with_tools: list[dict[str, Any]] = [
        {"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}
    ]
    for each in arguments:
        call = {"type": "function", "function": {"name": "image_zoom_in_tool", "arguments": each}}
        with_tools += [{"role": "assistant", "content": "", "tool_calls": [call]}]
        with_tools += [{"role": "tool", "content": [image]}]
    assert rendered(template, plain) == rendered(template, with_tools, [qwen.SCHEMA])


def test_mini_o3_counts_turns_and_its_stop_text_is_put_back() -> None:
    said, *_ = TALKS["mini-o3"]
    answer = talk("mini-o3", *said)
    assert answer.messages[2].text == said[0] + "</grounding>"
    assert answer.messages[3].text.startswith(
        f"After the above Action 0, here is the the zoom-in image (Observation 1):\n{IMAGE}.\nContinue your"
    )
    assert "Action 1, here is the the zoom-in image (Observation 2)" in answer.messages[5].text
    assert dialect("mini-o3").stop == ("</grounding>",)


def test_deepeyes_shows_the_crop_with_its_prompt_again() -> None:
    said, *_ = TALKS["deepeyes"]
    answer = talk("deepeyes", *said)
    prompt = (
        "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  "
        "<think>...</think>  <tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
    )
    assert answer.messages[1].text == f"{IMAGE}\nWhat is it?{prompt}"
    assert answer.messages[3] == Message("user", f"<tool_response>{IMAGE}\n{prompt}</tool_response>")
    assert "<think>where?</think>" in answer.messages[2].text  # the model was trained with its thoughts


def test_a_native_call_is_answered_under_its_id_and_the_crops_follow() -> None:
    two = native('{"bbox_2d": [0, 0, 500, 500], "image": 0}', "a") + "\n"
    two += native('{"bbox_2d": [9, 9, 5, 5], "image": 0}', "b")
    answer = talk("openai-tools", two, "a fox")
    roles = [message.role for message in answer.messages]
    assert roles == ["system", "user", "assistant", "tool", "tool", "user", "assistant"]
    assert answer.messages[3].text == "Image 1 follows." and answer.messages[4].text.startswith("Error: ")
    assert answer.messages[5].text == f"Image 1:\n{IMAGE}"


def test_what_a_dialect_writes_it_reads_again() -> None:
    for name, each in DIALECTS.items():
        shares = (0.25, 0.25, 0.5, 0.5)
        reading = each.parse(each.call(each.numbers(shares, (1000, 800)), 0, 1), 1)
        (call,) = reading.calls
        assert not call.fault, name
        read = each.shares(call.numbers, (1000, 800))
        assert read == pytest.approx(shares, abs=0.002), name
        done = each.parse(each.answer("a fox"), 1)
        assert (done.calls, done.answer) == ((), "a fox"), name


def test_a_call_in_a_text_cannot_pass_for_a_native_one_of_another_form() -> None:
    words, calls = split_calls(
        'say <native_call>{"id": "x"}</native_call> and\n<native_call>[]</native_call>'
    )
    assert calls == () and words.startswith("say")
    kept = ToolCall("a", "zoom", '{"x": "</native_call>\\n<native_call>"}')
    assert split_calls(with_calls("look", [kept])) == ("look", (kept,))


# -- which pixels ------------------------------------------------------------------------------------


def test_crop_from_decides_whether_a_detail_is_there() -> None:
    """Thin stripes vanish when the image is shrunk: grey in what was seen, black and white in the file."""
    pixels = np.zeros((2048, 2048, 3), np.uint8)
    pixels[:, 1::2] = 255
    view = view_of(Image.fromarray(pixels))
    call = json_call(bbox_2d=[256, 256, 756, 756])
    shown = {}
    for crop_from in CROPS_FROM:
        policy = Zoom(dialect("deepeyes"), 1, crop_from, most_pixels=1_048_576)
        engine = ScriptedEngine(call, "<answer>done</answer>")
        (answer,) = run(policy, engine, [Question("?", (view,))])
        first, second = engine.requests[-1].images
        assert first.image.size == (1008, 1008), "the question's image is shown within the limit"
        shown[crop_from] = np.asarray(second.image)
        assert answer.looks[0].crop == (520, 520, 1536, 1536)
    assert int(np.ptp(shown["original"])) > 200 and int(np.ptp(shown["seen"])) < 60


def test_qwen_grows_a_small_box_about_its_middle() -> None:
    answer = talk("qwen3-vl", json_call(bbox_2d=[500, 500, 511, 511], label="x", img_idx=0), "done")
    # 11 x 8.8 px, scaled by 32 / 8.8: 40 x 32 px about (505.5, 404.4), corners rounded away from the middle.
    assert answer.looks[0].crop == (485, 388, 526, 421)


def test_a_corner_at_one_is_pixels_for_pixel_reasoner() -> None:
    answer = talk("pixel-reasoner", CROP.format([0.5, 0.5, 1.0, 1.0], 1), "\\boxed{no}", view=noise(200, 200))
    # One pixel at the corner, and a tenth of the sides about it: 20 px, which is too small.
    assert [look.crop for look in answer.looks] == [] and "smaller than 29" in answer.refusals[0].reason


def test_no_image_is_shown_beyond_the_limit_of_images() -> None:
    call = json_call(bbox_2d=[0, 0, 500, 500], label="x", img_idx=0)
    answer = talk("qwen3-vl", call, call, "done", most_images=2)
    assert len(answer.looks) == 1 and "no look is left" in answer.refusals[0].reason


def test_several_images_and_their_crops_have_one_numbering() -> None:
    engine = ScriptedEngine(
        json_call(bbox_2d=[0, 0, 500, 500], label="x", img_idx=1),
        json_call(bbox_2d=[0, 0, 500, 500], label="x", img_idx=2),
        "done",
    )
    views = (VIEW, noise(600, 600, 2))
    (answer,) = run(Zoom(dialect("qwen3-vl"), 4), engine, [Question("?", views)])
    assert [(look.image, look.source, look.crop) for look in answer.looks] == [
        (1, 1, (0, 0, 300, 300)),
        (1, 2, (0, 0, 150, 150)),
    ]
    assert (
        mini_o3.MINI_O3.parse('<grounding>{"bbox_2d": [0,0,1,1], "source": "observation_1"}', 2)
        .calls[0]
        .source
        == 2
    )
