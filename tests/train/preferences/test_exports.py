"""Rows for verl and ms-swift: their names, whole paths, and what cannot be written is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from zoom_talks import TALKS, VIEW

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.data.traces.trace import Trace, trace_of, write_traces
from viscot_core.policies.base import Question
from viscot_core.policies.dialects.known import dialect
from viscot_core.policies.zoom import Zoom
from viscot_core.rollout import run
from viscot_core.train.preferences.pairs import PairMessage, PreferencePair, write_pairs

Cli = Callable[..., Any]


def talk(question: str, reference: str | None = "a fox", image: str = "a.png") -> Trace:
    engine = ScriptedEngine(*TALKS["viscot"][0])
    (answer,) = run(Zoom(dialect("viscot"), 4), engine, [Question(question, (VIEW,))])
    return trace_of(
        answer, images=[image], question=question, dialect="viscot", crop_from="original",
        reference=reference, box=Box(500.0, 300.0, 750.0, 550.0, Frame.ORIGINAL),
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    VIEW.image.save(tmp_path / "a.png")
    talks = [talk("What?"), talk("What?"), talk("Where?"), talk("Who?", None), talk("Why?", image="no.png")]
    write_traces(tmp_path / "traces.jsonl", talks)
    message = PairMessage(role="user", content="<image>\nWhat?")
    good, bad = (PairMessage(role="assistant", content=text) for text in ("yes", "no"))
    pairs = [
        PreferencePair(images=(name,), prompt=(message,), chosen=(good,), rejected=(bad,))
        for name in ("a.png", "a.png###[1, 2, 30, 40]")
    ]
    write_pairs(tmp_path / "prefs.jsonl", pairs)
    return tmp_path


def test_questions_for_ms_swift(cli: Cli, root: Path) -> None:
    ran = cli("data", "convert", root / "traces.jsonl", "--to", "ms-swift", "--out", root / "out.jsonl")
    assert ran.code == 3 and "no reference" in ran.err and "no.png" in ran.err
    rows = [json.loads(line) for line in (root / "out.jsonl").read_text().splitlines()]
    assert [row["solution"] for row in rows] == ["a fox", "a fox"], "one row a question"
    assert rows[0]["images"] == [str(root / "a.png")]
    assert [message["role"] for message in rows[0]["messages"]][-1] == "user"
    assert all("assistant" not in message["role"] for row in rows for message in row["messages"])


def test_questions_for_verl(cli: Cli, root: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert (
        cli("data", "convert", root / "traces.jsonl", "--to", "verl", "--out", root / "out.parquet").code == 3
    )
    first, _ = parquet.read_table(root / "out.parquet").to_pylist()
    assert set(first) == {"data_source", "prompt", "images", "ability", "reward_model", "extra_info"}
    assert first["reward_model"] == {"style": "rule", "ground_truth": "a fox"}
    assert first["images"] == [{"image": (root / "a.png").as_uri()}]
    assert first["extra_info"]["box"] == [500.0, 300.0, 750.0, 550.0]


def test_pairs_for_ms_swift_and_not_for_verl(cli: Cli, root: Path) -> None:
    ran = cli("data", "convert", root / "prefs.jsonl", "--to", "ms-swift", "--out", root / "out.jsonl")
    assert ran.code == 3 and "shows a crop" in ran.err
    (row,) = (json.loads(line) for line in (root / "out.jsonl").read_text().splitlines())
    assert row["messages"][-1] == {"role": "assistant", "content": "yes"}
    assert row["rejected_response"] == "no"
    assert cli("data", "convert", root / "prefs.jsonl", "--to", "verl", "--out", root / "o.parquet").code == 2
    ran = cli("data", "convert", root / "traces.jsonl", "--to", "verl", "--out", root / "o.jsonl")
    assert ran.code == 2 and "write o.parquet" in ran.err and not (root / "o.jsonl").exists()
    assert not (root / "o.parquet").exists()


def test_a_file_that_is_neither(cli: Cli, root: Path) -> None:
    (root / "rows.json").write_text('[{"id": 1, "conversations": [{"from": "human", "value": "a"}]}]')
    ran = cli("data", "convert", root / "rows.json", "--to", "ms-swift", "--out", root / "out.jsonl")
    assert ran.code == 1 and "neither traces" in ran.err
