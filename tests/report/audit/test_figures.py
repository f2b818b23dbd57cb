"""The figures of an audit, proved on engines whose use of a crop is known by construction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_readers import ReadingEngine, Reads, always, half, never, write_painted_root
from made_runs import prediction, write_run

from viscot_core.engines.open import EngineOptions
from viscot_core.report.audit.figures import AuditFigures, audits
from viscot_core.report.choices import Format
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import ScoredRun, read_scored_run
from viscot_core.runs.audit.audit_task import Audit
from viscot_core.runs.audit.recorded import Recorded
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import Prediction, RunInfo
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run
from viscot_core.tasks.visual_cot.task import VisualCot

COUNT = 24
BY = ("none", "blank", "noise", "other")


def audit_of(folder: Path, monkeypatch: pytest.MonkeyPatch, reads: Reads) -> ScoredRun:
    """The scored audit of an engine that reads crops as ``reads`` says."""
    root, boxes = write_painted_root(folder / "data", COUNT)
    engine = ReadingEngine(boxes, reads)
    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: engine)
    monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: "0")
    options = EngineOptions(model="made", box_format="viscot")
    evaluate(VisualCot(root, ("cot",), protocol="native"), options, folder / "run")
    evaluate(Audit(Recorded(folder / "run"), (*BY, "gt", "same")), options, folder / "audit")
    score_run(folder / "audit", OfflineJudge("exact"))
    return read_scored_run(folder / "audit")


@pytest.mark.parametrize(
    ("reads", "share"), [(always, 1.0), (never, 0.0), (half, 0.5)], ids=["all", "none", "half"]
)
def test_what_is_known_by_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: Reads, share: float
) -> None:
    run = audit_of(tmp_path, monkeypatch, reads)
    found = audits(run)["cot"]
    assert (found.items, found.looked) == (COUNT, COUNT)
    assert list(found.replaced) == [*BY, "gt", "same"], "in the order of --replace"
    for by in BY:
        replayed = found.replaced[by]
        for figure in (replayed.flips, replayed.necessity, found.sufficiency, found.gain, found.accuracy):
            assert figure is not None and figure.value is not None and figure.ci95 is not None
            assert (figure.n, figure.of) == (COUNT, COUNT)
            assert figure.ci95.low <= share <= figure.ci95.high, (by, figure)
            # Of all and of none there is no chance; half of them by a hash is a draw.
            assert reads is half or figure.value == share, (by, figure)
        assert replayed.accuracy.value == 0
        difference = replayed.difference.ci95
        assert difference is not None and difference.low <= -share <= difference.high
    same = found.replaced["same"]
    assert (same.flips.value, same.difference.value, same.necessity.value) == (0, 0, 0)
    assert found.replaced["gt"].difference.value == 0
    assert found.harm is not None and found.harm.value == 0
    assert found.coverage is not None and found.coverage.inside.value == 1
    assert found.coverage.table["missed right"] == 0
    text = build_report([run], ReportOptions()).to_text(Format.TABLE)
    assert "does looking matter?" in text and "24 of 24 items have a look" in text
    json.dumps(build_report([run], ReportOptions()).to_json()["audit"]["cot"])


# -- by hand: four items, each figure counted on paper


def figures_of(folder: Path, predictions: list[Prediction]) -> AuditFigures:
    write_run(folder, predictions)
    info = RunInfo.model_validate_json((folder / "run.json").read_bytes())
    settings = {**info.settings, "audit": {"seed": 0, "strategies": ["cot"]}}
    info.model_copy(update={"settings": settings}).save(folder)
    score_run(folder, OfflineJudge("exact"))
    return audits(read_scored_run(folder))["cot"]


def row(number: int, strategy: str, right: bool, **changes: object) -> Prediction:
    """Wrong answers differ by strategy, right ones only in case."""
    answer = {"answer": "Forty" if right else f"no {strategy}", "reference": "forty", "question_id": number}
    return prediction(strategy=strategy, **(answer | changes))


def test_four_items_by_hand(tmp_path: Path) -> None:
    # with the crop, crop replaced, alone, without a look
    table = [(1, 0, 1, 0), (1, 1, 1, 1), (0, 0, 0, 1), (1, 0, 0, 1)]
    names = ("cot", "cot:blank", "cot:alone", "direct")
    rows = [
        row(number, name, bool(right), tokens=10, calls=2, seconds=0.5)
        for number, rights in enumerate(table)
        for name, right in zip(names, rights, strict=True)
    ]
    found = figures_of(tmp_path / "run", rows)
    blank = found.replaced["blank"]
    assert found.accuracy.value == 0.75
    assert blank.flips.value == 0.75  # all but the second; two wrong answers may differ too
    assert blank.accuracy.value == 0.25
    assert blank.difference.value == -0.5
    assert blank.necessity.value == 0.5
    assert (blank.needed.value, blank.needed.n, blank.needed.of) == (pytest.approx(2 / 3), 3, 3)
    assert found.sufficiency is not None and found.sufficiency.value == 0.5
    assert found.only_with_tool is not None
    assert (found.only_with_tool.value, found.only_with_tool.of) == (pytest.approx(1 / 3), 3)
    assert found.gain is not None and found.gain.value == 0.25
    assert found.harm is not None and found.harm.value == 0.25
    cost = found.costs["cot"]
    assert (cost.solved, cost.items, cost.calls, cost.tokens) == (3, 4, 8 / 3, 40 / 3)
    assert found.costs["direct"].seconds == pytest.approx(2 / 3)
    assert found.adaptiveness is None, "no samples without a look"


def test_what_is_not_known_is_not_counted(tmp_path: Path) -> None:
    """A talk without a look, an item without a region, an answer that no judge can read."""
    rows = [
        row(0, "cot", True),
        row(1, "cot", True, crop=None, box=None),
        row(2, "cot", True, reference=None),
        row(3, "cot", False, box_gt=None),
        *(row(number, "cot:blank", False) for number in range(3)),
    ]
    found = figures_of(tmp_path / "run", rows)
    assert (found.items, found.looked) == (4, 3)
    blank = found.replaced["blank"]
    assert (blank.flips.n, blank.flips.of) == (2, 3)
    assert (blank.difference.n, blank.difference.of) == (1, 3)
    assert found.gain is None and found.sufficiency is None and found.only_with_tool is None
    assert found.coverage is not None and (found.coverage.iou.n, found.coverage.iou.of) == (2, 3)
    assert found.costs["cot"].tokens is None, "old records do not say it"


def test_where_it_looked(tmp_path: Path) -> None:
    """An image of 640 x 480: the square is 640 px, and the image begins 80 px below its top."""
    inside, outside = (0, 0, 224, 224), (400, 200, 624, 424)
    truth = (0.1, 0.225, 0.3, 0.425)  # pixels 64..192 x 64..192
    rows = [
        row(0, "cot", True, crop=inside, box=truth, box_gt=truth),
        row(1, "cot", False, crop=inside, box=(0.2, 0.225, 0.4, 0.425), box_gt=truth),
        row(2, "cot", True, crop=outside, box=(0.7, 0.5, 0.9, 0.7), box_gt=truth),
        row(3, "cot", False, crop=(128, 0, 352, 224), box=truth, box_gt=truth, box_status="unparsable"),
    ]
    found = figures_of(tmp_path / "run", rows).coverage
    assert found is not None
    assert found.iou.value == pytest.approx((1 + 1 / 3 + 0 + 0) / 4)
    assert found.inside.value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found.centre.value == 0.75  # of the last, on the crop's edge
    assert found.table == {"covered right": 1, "covered wrong": 2, "missed right": 1, "missed wrong": 0}
    assert found.right_if_covered.value == pytest.approx(1 / 3)
    assert found.right_if_missed.value == 1


def test_a_tool_that_is_called_where_it_is_needed(tmp_path: Path) -> None:
    """Five samples without a look: at most one right, the tool is needed; four or more, it is not."""
    called = {0: True, 1: True, 2: False, 3: False, 4: True}
    rights = {0: 0, 1: 1, 2: 1, 3: 4, 4: 3}  # the last one says nothing
    rows = [
        row(n, "cot", True, **({} if calls else {"crop": None, "box": None})) for n, calls in called.items()
    ]
    rows += [row(n, f"direct:{k}", k < rights[n]) for n in called for k in range(5)]
    found = figures_of(tmp_path / "run", rows).adaptiveness
    assert found is not None
    assert (found["tool"].value, found["tool"].n) == (pytest.approx(2 / 3), 3)
    assert (found["text"].value, found["text"].n) == (1, 1)
    assert found["mean"].value == pytest.approx(5 / 6)


def test_a_folder_that_is_no_audit_has_no_such_table(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [prediction()])
    run = read_scored_run(tmp_path / "run")
    assert audits(run) == {}
    report = build_report([run], ReportOptions())
    assert "audit" not in report.to_json() and "looking matter" not in report.to_text(Format.TABLE)
