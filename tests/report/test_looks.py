"""Looks in the statistics and on the report's page: counts, costs, and the answers by number of looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import prediction, talk, write_run

from viscot_core.report.choices import Format
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import read_scored_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    talks = [talk(1, 1), talk(2, 2), talk(3, 2, refused=1), talk(4, 0, refused=4, stop="refusals")]
    return write_run(tmp_path / "run", [*talks, prediction(question_id=5)])


def test_looks_refusals_and_costs_an_item(run: Path) -> None:
    report = build_report([read_scored_run(run)], ReportOptions())
    text = report.to_text(Format.TABLE)
    line = next(line for line in text.splitlines() if line.startswith("zoom ") and "answer 3" in line)
    assert line.split()[1] == "1.25" and "5 (50.0 %)" in line and "answer 3, refusals 1" in line
    found = report.to_json()["looks"]["zoom"]
    assert (found["items"], found["looks_an_item"], found["refused_share"]) == (4, 1.25, 0.5)
    assert (found["tokens_an_item"], found["seconds_an_item"]) == (22.5, 0.5)
    assert {looks: each["of"] for looks, each in found["by_looks"].items()} == {"0": 1, "1": 1, "2": 2}


def test_the_last_box_of_a_talk_counts_and_a_talk_without_one_is_not_compared(tmp_path: Path) -> None:
    talks = [talk(1, 2), talk(2, 3), talk(3, 0)]
    ious = (0.9, 0.2, None)
    run = write_run(
        tmp_path / "run",
        [one.model_copy(update={"iou": iou}) for one, iou in zip(talks, ious, strict=True)],
    )
    boxes = build_report([read_scored_run(run)], ReportOptions()).to_json()["boxes"]["zoom"]["overall"]
    assert (boxes["acc50"], boxes["mean_iou"], boxes["n"], boxes["of"]) == (0.5, 0.55, 2, 3)


def test_a_run_without_talks_has_no_such_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [prediction(question_id=5)])
    report = build_report([read_scored_run(run)], ReportOptions())
    assert "looks" not in report.to_json() and "looks an item" not in report.to_text(Format.TABLE)
