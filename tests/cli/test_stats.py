"""``viscot stats`` from the outside: every format, several runs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import prediction, sample_run, write_run

from viscot_core.tasks.suites import REFCOCO

Cli = Callable[..., Any]


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Path:
    folder = sample_run(tmp_path / "my_run", datasets=("docvqa", "cub"))
    assert cli("score", folder, "--judge", "exact").code == 0
    return folder


def test_table(cli: Cli, run: Path) -> None:
    ran = cli("stats", run)
    assert ran.code == 0
    for words in (
        "my_run: judge exact",
        "80 of 80",
        "cot minus direct",
        "DocVQA",
        "95 % interval",
        "unparsable",
        "boxes, n of N",
    ):
        assert words in ran.out


def test_json_of_one_run_and_of_two(cli: Cli, run: Path, tmp_path: Path) -> None:
    one = json.loads(cli("stats", run, "--format", "json").out)
    assert one["answers"]["cot"]["overall"]["of"] == 80
    other = sample_run(tmp_path / "other", seed=5)
    cli("score", other)
    two = json.loads(cli("stats", run, other, "--format", "json").out)
    assert two["runs"]["my_run"]["answers"] == one["answers"]


def test_csv(cli: Cli, run: Path) -> None:
    rows = list(csv.DictReader(cli("stats", run, "--format", "csv").out.splitlines()))
    (cot,) = [r for r in rows if (r["part"], r["strategy"], r["group"]) == ("answers", "cot", "overall")]
    assert 0 < float(cot["low"]) < float(cot["value"]) < float(cot["high"]) < 1
    assert (cot["n"], cot["of"]) == ("80", "80")


def test_markdown_and_latex(cli: Cli, run: Path) -> None:
    markdown = cli("stats", run, "--format", "markdown").out
    assert "| strategy | answers |" in markdown
    latex = cli("stats", run, "--format", "latex").out
    assert r"my\_run" in latex
    assert r"95 \% interval" in latex


def test_stats_only_reads(cli: Cli, run: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.iterdir()}
    cli("stats", run)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.iterdir()} == before


def test_beside_the_paper(cli: Cli, run: Path) -> None:
    ran = cli("stats", run, "--compare", "paper")
    assert ran.code == 0
    for words in ("VisCoT-7B@336", "gpt-3.5-turbo-1106", "theirs", "0.476", "47.1"):
        assert words in ran.out
    figures = json.loads(cli("stats", run, "--compare", "paper:VisCoT-7B@224", "--format", "json").out)[
        "paper"
    ]
    assert {f["model"] for f in figures["figures"]} == {"VisCoT-7B@224"}


def test_a_baseline(cli: Cli, run: Path, tmp_path: Path) -> None:
    other = sample_run(tmp_path / "other", datasets=("docvqa", "cub"), seed=5)
    cli("score", other)
    ran = cli("stats", run, "--baseline", other)
    assert ran.code == 0
    assert "my_run minus other" in ran.out


def test_judges_do_not_mix_unless_told(cli: Cli, run: Path, tmp_path: Path) -> None:
    other = sample_run(tmp_path / "other", seed=5)
    cli("score", other, "--judge", "anls")
    ran = cli("stats", run, other)
    assert ran.code == 2
    assert "--mix-judges" in ran.err
    assert cli("stats", run, other, "--mix-judges").code == 0


@pytest.mark.parametrize("by", ["dataset", "domain", "box-area"])
def test_by(cli: Cli, run: Path, by: str) -> None:
    ran = cli("stats", run, "--by", by)
    assert ran.code == 0
    assert f"Answers by {by}" in ran.out
    groups = {"dataset": "datasets", "domain": "domains", "box-area": "box_areas"}[by]
    assert groups in json.loads(cli("stats", run, "--by", by, "--format", "json").out)["answers"]["cot"]


def test_detection_shows_boxes_only(cli: Cli, run: Path) -> None:
    out = cli("stats", run, "--detection").out
    for column in ("IoU > 0.3", "IoU > 0.5", "IoU >= 0.5", "IoU > 0.7", "mean IoU"):
        assert column in out
    assert "Paired" not in out


def test_refcoco_has_eight_splits_and_an_average(cli: Cli, tmp_path: Path) -> None:
    rows = [
        prediction(strategy="refcoco", dataset=split, question_id=i, reference=None, answer=None, iou=i / 10)
        for split in REFCOCO
        for i in range(10)
    ]
    ran = cli("stats", write_run(tmp_path / "rec", rows), "--compare", "paper")
    assert ran.code == 0
    assert all(split in ran.out for split in REFCOCO)
    assert "overall" in ran.out
    assert "mean of 8" in ran.out
    assert "92.05" not in ran.out  # printed with one decimal
    assert "92.0" in ran.out or "92.1" in ran.out


def test_the_references_tables(cli: Cli, shared: Path) -> None:
    golden = shared / "golden" / "scoring" / "cot_detection_get_result.json"
    legacy = cli("stats", golden, "--legacy-average").out
    assert "Average Accuracy: 38.750" in legacy
    ours = cli("stats", golden)
    assert ours.code == 0
    overall = next(line for line in ours.out.splitlines() if line.startswith("overall"))
    assert "38.750" not in overall
    assert "--legacy-average" in cli("stats", "--help").out


def test_a_html_report(cli: Cli, run: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "folder" / "report.html"
    ran = cli("stats", run, "--out", report)
    assert ran.code == 0
    assert "<!doctype html>" in report.read_text()
    assert list(report.parent.iterdir()) == [report]
    ran = cli("stats", run, "--out", report / "in_a_file.html")
    assert ran.code == 1
    assert "choose another --out" in ran.err
    assert "Traceback" not in ran.err


def test_no_run_and_a_damaged_one(cli: Cli, run: Path, tmp_path: Path) -> None:
    assert cli("stats", tmp_path / "nothing").code == 2
    (run / "scores.exact.jsonl").write_text("junk\n")
    ran = cli("stats", run)
    assert ran.code == 1
    assert "scores.exact.jsonl:1" in ran.err
