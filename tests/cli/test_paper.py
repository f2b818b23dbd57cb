"""``viscot paper``: the list, a table's commands, its job, and figures that are here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import sample_run

Cli = Callable[..., Any]


def test_all_tables_and_one(cli: Cli) -> None:
    listed = cli("paper")
    assert listed.code == 0 and "Referring expressions" in listed.out
    one = cli("paper", "9")
    assert "viscot bench refcoco --model VisCoT-13b-224 --data data" in one.out and "x H100" in one.out
    assert "next:" in one.err and "needs lmms-eval" in cli("paper", "8").out


def test_a_job(cli: Cli) -> None:
    assert cli("paper", "4", "--sbatch", "--gpus", "8").out.startswith("#!/bin/bash\n")
    assert cli("paper", "--sbatch").code == 2
    assert cli("paper", "6").code == 2


def test_figures_that_are_here_follow(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sample_run(tmp_path / "results/paper/7b-224", items=4, strategies=("cot",), datasets=("docvqa",))
    shown = cli("paper", "7")
    assert shown.code == 0 and "box acc %" in shown.out.split("viscot stats")[-1]
