"""The zoom loop: crops of crops, limits, refusals, and which pixels a crop has."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw
from scripted_engine import ScriptedEngine

from viscot_core.boxes.geometry import Box, Frame, crop_window
from viscot_core.conversation import ANSWER_REQUEST, BOX_REQUEST, IMAGE, Message
from viscot_core.data.traces.trace import read_traces, trace_of, write_traces
from viscot_core.images.view import View, view_of
from viscot_core.policies.base import Answer, Question
from viscot_core.policies.dialects.known import dialect
from viscot_core.policies.zoom import NO_LOOK_LEFT, Zoom
from viscot_core.rollout import run

VISCOT = Zoom(dialect("viscot"), looks=3)
FIRST, SECOND = "[0.500, 0.500, 1.000, 1.000]", "[0.000, 0.000, 0.500, 0.500]"


def drawn(size: tuple[int, int] = (2048, 1024)) -> View:
    """An image with something of its own at every place."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    ImageDraw.Draw(image).rectangle((size[0] // 2, size[1] // 2, size[0] // 2 + 99, size[1] - 9), fill="red")
    return view_of(image)


def asked(*replies: str, policy: Zoom = VISCOT, view: View | None = None) -> tuple[Answer, ScriptedEngine]:
    engine = ScriptedEngine(*replies)
    (answer,) = run(policy, engine, [Question("What is it?", (view or drawn(),))])
    return answer, engine


def test_the_talk_of_two_looks_is_the_row_that_training_reads() -> None:
    answer, engine = asked(FIRST, SECOND, "a fox")
    assert answer.messages == (
        Message("user", f"{IMAGE}\nWhat is it? {BOX_REQUEST}"),
        Message("assistant", FIRST),
        Message("user", IMAGE),
        Message("assistant", SECOND),
        Message("user", IMAGE),
        Message("assistant", "a fox"),
    )
    assert (answer.text, answer.stop, answer.error) == ("a fox", "answer", None)
    assert [len(request.images) for request in engine.requests] == [1, 2, 3]


def test_a_crop_of_a_crop_is_cut_from_the_original() -> None:
    answer, engine = asked(FIRST, SECOND, "a fox")
    # The padded square of 2048 x 1024 has 512 rows above: its lower right quarter is 1024..2048, 512..1536.
    first, second = answer.looks
    assert first.box_pixels.coords == (1024, 512, 2048, 1024)
    window = crop_window(Box(1024, 512, 2048, 1536, Frame.ORIGINAL), (2048, 1024))
    assert first.crop == window == (1024, 0, 2048, 1024)
    # The crop is 1024 x 1024, so its upper left quarter is 512 x 512 at (1024, 0).
    assert second.crop == (1024, 0, 1536, 512) and second.source == 1 and second.turn == 2
    shown = engine.requests[2].images[2].image
    assert shown.tobytes() == drawn().image.crop(second.crop).tobytes()
    assert second.shown == (512, 512) and second.crop_hash == view_of(shown).key


def test_after_the_last_look_the_model_is_asked_for_the_answer() -> None:
    answer, _ = asked(FIRST, "a fox", policy=Zoom(dialect("viscot"), looks=1))
    assert answer.messages[2] == Message("user", f"{IMAGE}\n{ANSWER_REQUEST} What is it?")


def test_more_images_than_the_limit_leave_no_look() -> None:
    policy = Zoom(dialect("viscot"), looks=3, most_images=2)
    engine = ScriptedEngine(FIRST, "a fox")
    (answer,) = run(policy, engine, [Question("What is it?", (drawn(),) * 3)])
    assert (answer.text, answer.looks) == ("a fox", ())
    assert answer.messages[2].text.endswith(f"{ANSWER_REQUEST} What is it?")


def test_a_model_that_never_answers_comes_to_an_end() -> None:
    answer, engine = asked(*[SECOND] * 20)
    assert (answer.text, answer.stop, len(answer.looks)) == ("", "looks", 3)
    assert [refusal.reason for refusal in answer.refusals] == [NO_LOOK_LEFT] * 4
    assert len(engine.requests) == 3 + 4


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    answer, _ = asked(FIRST, "[oops]", SECOND, "a fox")
    trace = trace_of(answer, images=["a.png"], question="What?", dialect="viscot", crop_from="original")
    assert write_traces(tmp_path / "t.jsonl", [trace, trace]) == 2
    assert list(read_traces(tmp_path / "t.jsonl")) == [trace, trace]
    assert trace.views() == [
        ("a.png", None),
        ("a.png", (1024, 0, 2048, 1024)),
        ("a.png", (1024, 0, 1536, 512)),
    ]
    assert [error.turn for error in trace.errors] == [2] and trace.looks[1].turn == 3
