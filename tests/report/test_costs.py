"""What an item cost, by strategy; records that do not say it are counted."""

from __future__ import annotations

from pathlib import Path

from made_runs import prediction, write_run

from viscot_core.report.choices import Format
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import read_scored_run


def test_means_over_the_items_that_say_it(tmp_path: Path) -> None:
    said = [
        {"calls": 2, "tokens": 20, "prompt_tokens": 300, "seconds": 1.0},
        {"calls": 1, "seconds": 0.5},
        {},
    ]
    rows = [prediction(strategy="cot", question_id=n, **facts) for n, facts in enumerate(said)]
    run = read_scored_run(write_run(tmp_path / "run", rows))
    report = build_report([run], ReportOptions())
    assert report.to_json()["cost"] == {
        "cot": {"calls": 1.5, "tokens": 20, "prompt_tokens": 300, "seconds": 0.75, "n": 2, "of": 3}
    }
    assert "run: cost of an item" in report.to_text(Format.TABLE) and "2 of 3" in report.to_text(Format.TABLE)


def test_a_run_of_an_earlier_version_has_no_such_table(tmp_path: Path) -> None:
    run = read_scored_run(write_run(tmp_path / "run", [prediction(strategy="cot")]))
    report = build_report([run], ReportOptions())
    assert "cost" not in report.to_json() and "cost of an item" not in report.to_text(Format.TABLE)
