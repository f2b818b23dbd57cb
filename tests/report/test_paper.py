"""How the paper's tables are made again: every command exists, costs are counted, jobs go on."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from command_lines import commands, parse_viscot

from viscot_core.errors import UsageError
from viscot_core.report.compare import load_paper
from viscot_core.report.paper import paper_table, paper_tables, sbatch


@pytest.mark.parametrize("number", paper_tables())
def test_every_command_parses(number: int) -> None:
    recipe = paper_table(number)
    for words in commands("\n".join(recipe.commands)):
        assert words[0] == "viscot"
        parse_viscot(words)


@pytest.mark.parametrize("number", paper_tables())
def test_every_model_that_is_pulled_is_asked(number: int) -> None:
    text = "\n".join(paper_table(number).commands)
    for words in commands(text):
        if words[:3] == ["viscot", "models", "pull"]:
            assert f"--model {words[3]} " in text


def test_every_published_table_of_a_model_has_its_commands() -> None:
    published = {row.table for row in load_paper().rows}
    assert published | {2} == set(paper_tables())


def test_costs_are_counted() -> None:
    boxes = paper_table(4)
    # 8,281 questions of 41.1 TFLOP at 31 % of 989 TFLOPS.
    assert boxes.hours("NVIDIA H100 80GB HBM3") == pytest.approx(8281 * 41.1 / (989 * 0.31) / 3600)
    assert boxes.hours("A card of tomorrow") is None
    assert boxes.dollars is not None and 0.5 < boxes.dollars < 20
    assert paper_table(8).hours("H100") is None and paper_table(9).dollars is None


def test_a_job_continues_and_stops_at_the_first_failure(tmp_path: Path) -> None:
    script = sbatch(paper_table(9), gpus=4)
    assert "#SBATCH --gpus-per-node=4" in script and "--gpus 4 ||" in script and "--yes ||" in script
    calls = tmp_path / "calls"
    viscot = tmp_path / "viscot"

    def run(code: int) -> tuple[int, int]:
        calls.write_text("")
        viscot.write_text(f"#!/bin/bash\necho $* >> {shlex.quote(str(calls))}\nexit {code}\n")
        viscot.chmod(0o755)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(["bash", "-c", script], env=env, check=False).returncode, len(
            calls.read_text().splitlines()
        )

    every = len(paper_table(9).commands)
    assert run(0) == (0, every) and run(3) == (0, every)
    assert run(1) == (1, 1)


def test_a_table_says_what_it_needs() -> None:
    assert "OPENAI_API_KEY" in paper_table(3).needs[0] and not paper_table(9).needs
    assert "viscot[general]" in paper_table(8).needs[0]
    assert "'score'" in sbatch(paper_table(3)) and "'score'" not in sbatch(paper_table(9))


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(UsageError, match="Table 6 is not one of 2, 3, 4"):
        paper_table(6)
