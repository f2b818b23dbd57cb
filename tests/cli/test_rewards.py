"""``viscot rewards`` from the outside: what each talk of a file earns, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_report import make_run
from scripted_engine import ScriptedEngine
from zoom_talks import TALKS, VIEW

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.data.traces.trace import Trace, trace_of, write_traces
from viscot_core.policies.base import Question
from viscot_core.policies.dialects.known import dialect
from viscot_core.policies.zoom import Zoom
from viscot_core.rollout import run

Cli = Callable[..., Any]


def talk(said: list[str], reference: str | None = "a fox") -> Trace:
    (answer,) = run(Zoom(dialect("viscot"), 4), ScriptedEngine(*said), [Question("What is it?", (VIEW,))])
    return trace_of(
        answer, images=["a.png"], question="What is it?", dialect="viscot", crop_from="original", id=7,
        reference=reference, box=Box(500.0, 300.0, 750.0, 550.0, Frame.ORIGINAL),
    )  # fmt: skip


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    VIEW.image.save(tmp_path / "a.png")
    good, whole = TALKS["viscot"][0], ["[0.000, 0.000, 1.000, 1.000]", "a fox"]
    write_traces(tmp_path / "traces.jsonl", [talk(good), talk(whole), talk(["a dog"])])
    return tmp_path / "traces.jsonl"


def test_what_each_talk_earns_and_why(cli: Cli, traces: Path) -> None:
    ran = cli("rewards", "check", traces, "--reward", "iou,answer,format", "--json")
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    totals = [round(row["total"], 2) for row in rows]
    assert totals[1:] == [2.0, 1.0]  # the whole image: no gain; no look and a wrong answer: only the form
    assert 2.5 < totals[0] <= 3.0
    assert [row["group"] for row in rows] == [1, 1, 1]
    assert "0 of 1 groups" in ran.err
    text = cli("rewards", "check", traces, "--reward", "iou,answer,format").out
    assert "no region was named" in text and "answered 'a dog', wanted 'a fox'" in text


def test_equal_totals_are_counted(cli: Cli, traces: Path) -> None:
    assert "1 of 1 groups have equal totals" in cli("rewards", "check", traces, "--reward", "format").err


def test_what_cannot_be_known_is_no_zero(cli: Cli, tmp_path: Path) -> None:
    VIEW.image.save(tmp_path / "a.png")
    write_traces(tmp_path / "traces.jsonl", [talk(["a fox"], None), talk(["a fox"])])
    ran = cli("rewards", "check", tmp_path / "traces.jsonl", "--reward", "answer")
    assert ran.code == 3
    assert "mean answer: 1.000 (1 of 2 talks)" in ran.err and "1 of 2 talks have no total" in ran.err
    (tmp_path / "a.png").unlink()
    assert cli("rewards", "check", tmp_path / "traces.jsonl", "--reward", "answer").code == 3


def test_a_run_without_talks_is_refused(cli: Cli, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 3)
    for words in (
        ("rewards", "check", folder, "--reward", "iou"),
        ("traces", "show", folder, 1),
        ("traces", "show", folder / "predictions.jsonl", 1),
    ):
        ran = cli(*words)
        assert ran.code == 2 and "has no talks; a run of --policy zoom keeps them" in ran.err
    ran = cli("traces", "convert", folder, "--to", "trace", "--out", tmp_path / "out.jsonl")
    assert ran.code == 2 and not (tmp_path / "out.jsonl").exists()
    # Elsewhere than in its run, and as `infer --out` writes them: rows of answers.
    answer = {"image": "a.png", "question": "?", "model": "m", "strategy": "cot", "status": "done"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    (tmp_path / "copied.jsonl").write_bytes((folder / "predictions.jsonl").read_bytes())
    for name in ("answers.jsonl", "copied.jsonl"):
        ran = cli("traces", "show", tmp_path / name, 1)
        assert ran.code == 1 and f"{name} has answers and no talks" in ran.err, ran.err


def test_wrong_usage(cli: Cli, traces: Path) -> None:
    assert cli("rewards", "check", traces, "--reward", "iuo").code == 2
    assert cli("rewards", "check", traces.with_name("no.jsonl"), "--reward", "iou").code == 1


def test_the_list_says_what_earns_nothing(cli: Cli) -> None:
    rows = [json.loads(line) for line in cli("rewards", "list", "--json").out.splitlines()]
    assert {"answer", "iou", "format", "tool-bonus", "curiosity", "length"} <= {row["name"] for row in rows}
    assert all(row["refuses"] for row in rows)
    assert "the whole image" in cli("rewards", "list").out
