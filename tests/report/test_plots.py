"""The report's plots."""

from __future__ import annotations

import re
from pathlib import Path

from made_report import report_of
from made_runs import prediction, write_run

from viscot_core.report.choices import Images
from viscot_core.report.plots import COLORS, Mark, dots, histogram
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run


def test_plots_draw_missing_values_and_extremes() -> None:
    svg = dots("A & B", [("x<y", [Mark(None), Mark(1.0, 0.9, 1.0)])], ["one", "two"])
    assert "x&lt;y" in svg
    assert "A &amp; B" in svg
    assert svg.count("<circle") == 1
    assert histogram("IoU", [0.0, 1.0, 1.0]).count("<rect") == 20


def test_a_strategy_keeps_its_colour_where_another_has_no_such_data_set(tmp_path: Path) -> None:
    asked = {"cot": ("cub", "gqa"), "direct": ("docvqa", "gqa"), "gt-box": ("docvqa", "cub", "gqa")}
    rows = [prediction(strategy=s, dataset=d) for s, datasets in asked.items() for d in datasets]
    run = write_run(tmp_path / "run", rows)
    score_run(run, OfflineJudge("exact"))
    text = report_of(run, tmp_path / "report.html", Images.NONE).read_text()
    (plot,) = re.findall(r"<svg(?:(?!</svg>).)*Answers by dataset.*?</svg>", text)
    marks = [len(re.findall(f'<circle [^>]*fill="{color}"', plot)) for color in COLORS]
    assert marks == [2, 2, 3, 0, 0, 0, 0]
    assert all(name in plot for name in ("DocVQA", "GQA", "CUB"))
