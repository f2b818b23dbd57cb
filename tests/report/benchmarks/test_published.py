"""Published figures beside a run: every one has a source and a standing, and unlike protocols are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.report.benchmarks.test_card import made
from viscot_core.report.analysis import analyse
from viscot_core.report.benchmarks.published import (
    TOLD,
    beside_published,
    published_figures,
    published_json,
    published_tables,
)
from viscot_core.report.names import find_dataset
from viscot_core.report.scored_run import ScoredRun
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS


def test_every_figure_is_complete_and_of_a_known_data_set() -> None:
    figures = published_figures()
    assert len(figures) == 126
    for figure in figures:
        assert figure.dataset in BENCHMARKS or find_dataset(figure.dataset), figure
        assert 0 < figure.value < 1 and figure.source and figure.standing in ("read", "second hand")
        assert set(figure.protocol) <= set(TOLD), figure


def test_one_model_has_several_figures_and_each_says_what_differs(tmp_path: Path) -> None:
    found = beside_published(analyse(made(tmp_path / "a", 20)))
    deepeyes = {one.theirs.value: one for one in found if one.theirs.model == "DeepEyes"}
    assert set(deepeyes) == {0.833, 0.901}
    assert deepeyes[0.901].differs == {"protocol": ("shuffled", "file")}
    assert deepeyes[0.833].differs == {"repeats": ("1", "32")}
    assert "judge" in deepeyes[0.833].untold
    engine = {"engine": "local", "model": "m", "sampling": "t=0.1,p=1.0,s=0"}
    warm = beside_published(analyse(made(tmp_path / "b", 20, engine=engine)))
    (thyme,) = [one for one in warm if one.theirs.model == "Thyme"]
    assert thyme.theirs.protocol["temperature"] == "0.1" and "temperature" not in thyme.differs


def test_other_questions_than_the_published_ones_are_said(tmp_path: Path) -> None:
    def notes(run: ScoredRun) -> str:
        return "\n".join(published_tables(analyse(run))[-1].notes)

    few = "Warning: 40 questions of vstar were asked here, 191 are published."
    run = made(tmp_path / "few", 20, repeats=2)
    begun = [
        "vstar has 40 questions here, 191 as published",
        "hrbench4k has 4 questions here, 800 as published",
    ]
    told = notes(replace(run, info=run.info.model_copy(update={"warnings": begun})))
    assert told.count(few) == 1 and "vstar has" not in told and f"Warning: {begun[1]}." in told
    row = published_json(analyse(run))[0]
    assert (row["questions"], row["questions_published"], row["of"]) == (40, 191, 80)
    assert "are published" not in notes(made(tmp_path / "all", 20, items=191))


def test_the_command_warns(tmp_path: Path, cli: Callable[..., Any]) -> None:
    made(tmp_path / "a", 20)
    shown = cli("stats", str(tmp_path / "a"), "--compare", "published").out
    place = shown.index("a beside published figures: vstar, direct: ")
    table = shown[place:].partition("\n[1] ")[0].splitlines()
    assert len(table) > 5 and max(map(len, table)) <= 100, "a source is a number, its words stand below"
    assert "\n[2] Warning: " in shown
    assert "Warning: DeepEyes' own figure" in shown and "protocol is file there and shuffled here" in shown
    data = json.loads(cli("stats", str(tmp_path / "a"), "--compare", "published", "--format", "json").out)
    assert {row["dataset"] for row in data["published"]} == {"vstar"}
    assert cli("stats", str(tmp_path / "a"), "--compare", "publshed").code == 2
