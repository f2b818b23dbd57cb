"""``viscot audit`` from the command line: a run, its audit, the judge, the tables and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_readers import ReadingEngine, always, write_painted_root

Cli = Callable[..., Any]


@pytest.fixture
def run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a made engine; the model's name is only looked up."""
    root, boxes = write_painted_root(tmp_path / "data", 3)
    engine = ReadingEngine(boxes, always)
    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: engine)
    monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: "0")
    ran = cli("bench", "cot", "--data", root, "--protocol", "native", "--box-format", "viscot",
              "--out", tmp_path / "run")  # fmt: skip
    assert ran.code == 0, ran.err
    return tmp_path / "run"


def test_audit_score_and_stats(cli: Cli, run: Path, tmp_path: Path) -> None:
    ran = cli("audit", run, "--replace", "blank,other", "--replace", "gt")
    assert ran.code == 0, ran.err
    out = tmp_path / "run-audit"
    assert "18 of 18 done" in ran.out and f"viscot score {out}" in ran.err
    assert "0 now" in cli("audit", run, "--replace", "blank,other,gt").out
    assert cli("score", out, "--judge", "exact").code == 0
    shown = cli("stats", out)
    assert "does looking matter?" in shown.out and "3 of 3 items have a look" in shown.out
    figures = json.loads(cli("stats", out, "--format", "json").out)["audit"]["cot"]
    assert figures["replaced"]["blank"]["flips"]["value"] == 1
    assert cli("stats", out, "--html", tmp_path / "audit.html").code == 0
    page = (tmp_path / "audit.html").read_text()
    assert "right with each crop, and answers that flip" in page


def test_wrong_words_are_one_sentence(cli: Cli, run: Path, tmp_path: Path) -> None:
    ran = cli("audit", run, "--replace", "blnk")
    assert ran.code == 2 and "Did you mean 'blank'?" in ran.err
    assert cli("audit", tmp_path / "nothing").code == 2
    assert not (tmp_path / "run-audit").exists() and not (tmp_path / "nothing-audit").exists()
