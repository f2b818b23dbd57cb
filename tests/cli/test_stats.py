"""``viscot stats`` from the outside: every format, several runs."""

import csv
import json
from pathlib import Path

import pytest
from made_runs import sample_run


@pytest.fixture
def run(cli, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    folder = sample_run(tmp_path / "my_run", datasets=("docvqa", "cub"))
    assert cli("score", folder, "--judge", "exact").code == 0
    return folder


def test_table(cli, run: Path) -> None:  # type: ignore[no-untyped-def]
    ran = cli("stats", run)
    assert ran.code == 0
    for words in (
        "my_run: judge exact",
        "80 of 80",
        "cot minus direct",
        "DocVQA",
        "95 % interval",
        "unparsable",
    ):
        assert words in ran.out


def test_json_of_one_run_and_of_two(cli, run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    one = json.loads(cli("stats", run, "--format", "json").out)
    assert one["answers"]["cot"]["overall"]["of"] == 80
    other = sample_run(tmp_path / "other", seed=5)
    cli("score", other)
    two = json.loads(cli("stats", run, other, "--format", "json").out)
    assert two["runs"]["my_run"]["answers"] == one["answers"]


def test_csv(cli, run: Path) -> None:  # type: ignore[no-untyped-def]
    rows = list(csv.DictReader(cli("stats", run, "--format", "csv").out.splitlines()))
    (cot,) = [r for r in rows if (r["part"], r["strategy"], r["group"]) == ("answers", "cot", "overall")]
    assert 0 < float(cot["low"]) < float(cot["value"]) < float(cot["high"]) < 1
    assert (cot["n"], cot["of"]) == ("80", "80")


def test_markdown_and_latex(cli, run: Path) -> None:  # type: ignore[no-untyped-def]
    markdown = cli("stats", run, "--format", "markdown").out
    assert "| strategy | answers |" in markdown
    latex = cli("stats", run, "--format", "latex").out
    assert r"my\_run" in latex
    assert r"95 \% interval" in latex


def test_stats_only_reads(cli, run: Path) -> None:  # type: ignore[no-untyped-def]
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.iterdir()}
    cli("stats", run)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.iterdir()} == before
