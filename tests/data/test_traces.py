"""Traces as training files of other projects, and back: what the loop makes of the words is the trace."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_engine import ScriptedEngine
from zoom_talks import TALKS, VIEW

from viscot_core.boxes.geometry import Box, Frame, crop_window, iou
from viscot_core.data.traces.carriers import FORMATS
from viscot_core.data.traces.conversion import convert, read_any
from viscot_core.data.traces.trace import Trace, read_traces, trace_of, write_traces
from viscot_core.images.view import view_of
from viscot_core.policies.base import Question
from viscot_core.policies.dialects.known import DIALECTS, dialect
from viscot_core.policies.zoom import Zoom
from viscot_core.rollout import run

Cli = Callable[..., Any]


def made(name: str) -> Trace:
    engine = ScriptedEngine(*TALKS[name][0])
    (answer,) = run(Zoom(dialect(name), 4), engine, [Question("What is it?", (VIEW,))])
    return trace_of(
        answer, images=["a.png"], question="What is it?", dialect=name, crop_from="original", id=7
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    VIEW.image.save(tmp_path / "a.png")
    return tmp_path


def boxes(trace: Trace) -> list[Box]:
    return [Box(*map(float, look.crop), Frame.ORIGINAL) for look in trace.looks]


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("form", [form for form in FORMATS if form != "trace"])
def test_every_format_there_and_back(name: str, form: str, root: Path) -> None:
    trace = made(name)
    done = convert([trace], form, root / "sft.jsonl", root)
    assert (done.rows, done.left_out) == (1, [])
    (row,) = (json.loads(line) for line in (root / "sft.jsonl").read_text().splitlines())
    shown = row.get("images", row.get("image"))
    assert len(shown) == 3 and row["id"] == 7
    if form != "viscot":
        crops = [Image.open(root / path) for path in shown[1:]]
        assert [crop.size for crop in crops] == [look.shown for look in _back(root, form, name).looks]
    back = _back(root, form, name)
    assert (back.question, back.answer, back.stop) == ("What is it?", "a fox" if name != "pixel-reasoner" else
        "red {fox}", "answer")  # fmt: skip
    # The same dialect says the same numbers; another one rounds them and cuts as its authors do.
    same = form in ("ms-swift", "llamafactory") or form == name
    assert [look.hash for look in back.looks] == [look.hash for look in trace.looks] or not same
    if form != "viscot" and name not in ("viscot", "pixel-reasoner"):  # their windows are larger than the box
        assert all(iou(a, b) > 0.95 for a, b in zip(boxes(trace), boxes(back), strict=True))


def _back(root: Path, form: str, name: str) -> Trace:
    convert(read_any(root / "sft.jsonl", root), "trace", root / "back.jsonl", root)
    (trace,) = read_traces(root / "back.jsonl")
    return trace


def test_a_viscot_row_shows_in_training_what_the_loop_shows(root: Path) -> None:
    trace = made("viscot")
    convert([trace], "viscot", root / "sft.jsonl", root)
    row = json.loads((root / "sft.jsonl").read_text())
    corners = [json.loads(path.partition("###")[2]) for path in row["image"][1:]]
    windows = [crop_window(Box(*corner, frame=Frame.ORIGINAL), VIEW.image.size) for corner in corners]
    assert windows == [look.crop for look in trace.looks]


def test_the_crops_on_disk_are_those_of_the_trace(root: Path) -> None:
    trace = made("qwen3-vl")
    convert([trace], "llamafactory", root / "sft.jsonl", root)
    row = json.loads((root / "sft.jsonl").read_text())
    hashes = [view_of(Image.open(root / path).convert("RGB")).key for path in row["images"][1:]]
    assert hashes == [look.hash for look in trace.looks]


def test_thoughts_and_refused_calls(root: Path) -> None:
    """A thought goes into a dialect that thinks aloud; a refused call is no example to learn from."""
    wrong = '<think>hm</think><grounding>{"bbox_2d": [2, 2, 3, 3], "source": "original_image"}'
    engine = ScriptedEngine(wrong, *TALKS["mini-o3"][0])
    (answer,) = run(Zoom(dialect("mini-o3"), 4), engine, [Question("What is it?", (VIEW,))])
    trace = trace_of(
        answer, images=["a.png"], question="What is it?", dialect="mini-o3", crop_from="original"
    )
    assert len(trace.errors) == 1 and trace.looks[0].turn == 2
    convert([trace], "deepeyes", root / "sft.jsonl", root)
    row = json.loads((root / "sft.jsonl").read_text())
    said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    assert len(said) == 3 and said[0].startswith("<think>where?</think>")


def test_what_cannot_be_written_is_left_out_and_said(cli: Cli, root: Path) -> None:
    good = made("viscot")
    bad = good.model_copy(update={"stop": "looks"})
    gone = good.model_copy(update={"images": ("gone.png",)})
    write_traces(root / "t.jsonl", [good, bad, gone])
    ran = cli("traces", "convert", root / "t.jsonl", "--to", "ms-swift", "--out", root / "sft.jsonl")
    assert ran.code == 3 and "2 of 3 talks were left out" in ran.err and "gone.png" in ran.err
    assert len((root / "sft.jsonl").read_text().splitlines()) == 1
    write_traces(root / "none.jsonl", [bad])
    ran = cli("traces", "convert", root / "none.jsonl", "--to", "ms-swift", "--out", root / "no.jsonl")
    assert ran.code == 1 and not (root / "no.jsonl").exists() and not (root / "no_crops").exists()


def test_show_prints_the_steps_and_draws_them(cli: Cli, root: Path) -> None:
    write_traces(root / "t.jsonl", [made("qwen3-vl"), made("viscot")])
    ran = cli("traces", "show", root / "t.jsonl", 2, "--save", root / "steps.png")
    assert ran.code == 0, ran.err
    assert "look 1   in image 0: box 500, 400, 1000, 800, crop 500, 300, 1000, 800" in ran.out
    assert "look 2   in crop 1: box 500, 300, 750, 550" in ran.out and "answer     a fox" in ran.out
    assert Image.open(root / "steps.png").height > 2 * 420
    assert cli("traces", "show", root / "t.jsonl", 3).code == 2
    (root / "bad.jsonl").write_text('{"looks": [], "dialect": "viscot"}\n')
    ran = cli("traces", "show", root / "bad.jsonl", 1)
    assert ran.code == 1 and "bad.jsonl:1: field 'messages' is missing" in ran.err


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("no row", "no valid JSON"),
        ('"\\u00e9', "no valid JSON"),
        ('"text"', "a field of another form"),
        ('{"image": "a.png"}', "no field or role 'conversations'"),
        ('{"conversations": [{"from": "bot", "value": "a"}]}', "no field or role 'bot'"),
        ('{"messages": [{"role": "user", "content": 3}]}', "a message of the role 'user' without a text"),
    ],
)
def test_a_row_of_no_format_is_named_with_its_reason(cli: Cli, root: Path, row: str, reason: str) -> None:
    (root / "bad.jsonl").write_text(row + "\n")
    ran = cli("traces", "convert", root / "bad.jsonl", "--to", "viscot", "--out", root / "o.jsonl")
    assert ran.code == 1 and f"bad.jsonl:1: this is no conversation with images ({reason})" in ran.err
    assert not (root / "o.jsonl").exists()


def test_rows_without_a_sign_of_their_dialect_need_a_word(cli: Cli, root: Path) -> None:
    messages = [
        {"role": "user", "content": "<image>\nWhat?"},
        {"role": "assistant", "content": "[0.1, 0.1, 0.5, 0.5]"},
        {"role": "user", "content": "<image>"},
        {"role": "assistant", "content": "a fox"},
    ]
    (root / "r.jsonl").write_text(json.dumps({"messages": messages, "images": ["a.png", "b.png"]}) + "\n")
    command = ("traces", "convert", root / "r.jsonl", "--to", "trace", "--out", root / "t.jsonl")
    ran = cli(*command)
    assert ran.code == 1 and "name it with" in ran.err
    assert cli(*command, "--from", "viscot").code == 0
    (trace,) = read_traces(root / "t.jsonl")
    assert len(trace.looks) == 1 and trace.question == "What?"


def test_a_trace_shows_itself_in_a_notebook(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = made("viscot").model_copy(update={"question": "<b>What</b>?"})
    monkeypatch.chdir(root)
    shown = trace._repr_html_()
    assert "&lt;b&gt;What&lt;/b&gt;?" in shown and "look 2" in shown
    drawn = Image.open(io.BytesIO(base64.b64decode(shown.split("base64,")[1].split("'")[0])))
    assert drawn.size == trace.draw(root).size
    monkeypatch.chdir(root.parent)
    assert "<img" not in trace._repr_html_() and "look 2" in trace._repr_html_()
