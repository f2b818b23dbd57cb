"""The reference's own files are read as they are, and written so that reading them again loses nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from viscot_core.engines.open import EngineOptions
from viscot_core.errors import DataError, UsageError
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.exchange import export_results, import_results
from viscot_core.runs.records import read_predictions, read_run
from viscot_core.tasks.loading import Selection
from viscot_core.tasks.refcoco import RefCoco
from viscot_core.tasks.reference_files import ReferenceFiles
from viscot_core.tasks.visual_cot.task import VisualCot


def folder(tmp_path: Path, source: Path, name: str, stem: str = "made") -> Path:
    target = tmp_path / name
    target.mkdir(exist_ok=True)
    shutil.copy(source, target / f"{stem}.jsonl")
    return target


@pytest.fixture
def files(shared: Path, tmp_path: Path) -> ReferenceFiles:
    e2e = shared / "golden" / "e2e"
    return ReferenceFiles(
        folder(tmp_path, e2e / "detection.jsonl", "detection"),
        {
            "cot": folder(tmp_path, e2e / "answer_pred_raw.jsonl", "pred"),
            "direct": folder(tmp_path, e2e / "answer_direct.jsonl", "direct"),
            "gt-box": folder(tmp_path, e2e / "answer_gt.jsonl", "gt"),
        },
    )


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_references_run_is_our_run(
    files: ReferenceFiles, golden_root: Path, shared: Path, tmp_path: Path
) -> None:
    """What it said, box by box and answer by answer, is what we say of the same weights."""
    info = import_results(files, golden_root, tmp_path / "theirs", "tiny_llava")
    assert info.counts == {"done": 36, "failed": 0, "missing": 0, "pending": 0}
    engine = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    evaluate(VisualCot(golden_root, ("cot", "direct", "gt-box")), engine, tmp_path / "ours")
    ours = {p.key: p for p in read_predictions(tmp_path / "ours")}
    theirs = {p.key: p for p in read_predictions(tmp_path / "theirs")}
    assert ours.keys() == theirs.keys()
    for key, their in theirs.items():
        our = ours[key]
        assert (their.box_status, their.iou) == (our.box_status, our.iou)
        assert their.box is None or their.box == pytest.approx(our.box)
        assert their.answer in (our.answer, None)
    # The reference stopped at the third item; the rest have boxes and no answer.
    assert sum(p.answer is not None for p in theirs.values() if p.strategy == "cot") == 2


def test_written_and_read_again_nothing_is_lost(golden_root: Path, shared: Path, tmp_path: Path) -> None:
    engine = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    strategies = ("cot", "direct", "gt-box", "no-image")
    evaluate(VisualCot(golden_root, strategies), engine, tmp_path / "ours")
    written = export_results(tmp_path / "ours", tmp_path / "up")
    assert len(written) == 5
    e2e = shared / "golden" / "e2e"
    for mine, theirs in (
        ("detection/made", "detection"),
        ("results/direct/made", "answer_direct"),
        ("results/gt-box/made", "answer_gt"),
    ):
        drop = {"answer_id", "model_id"}
        ours = [
            {k: v for k, v in row.items() if k not in drop} for row in rows(tmp_path / "up" / f"{mine}.jsonl")
        ]
        golden = [{k: v for k, v in row.items() if k not in drop} for row in rows(e2e / f"{theirs}.jsonl")]
        assert ours == golden
    answers = {name: tmp_path / "up" / "results" / name for name in strategies}
    import_results(
        ReferenceFiles(tmp_path / "up" / "detection", answers), golden_root, tmp_path / "back", "x"
    )
    fields = {"answer", "box_status", "iou", "crop", "box"}
    mine = {p.key: p.model_dump(include=fields) for p in read_predictions(tmp_path / "ours")}
    back = {p.key: p.model_dump(include=fields) for p in read_predictions(tmp_path / "back")}
    assert mine == back


def test_refcoco_both_ways(golden_root: Path, shared: Path, tmp_path: Path) -> None:
    e2e = shared / "golden" / "e2e"
    theirs = folder(tmp_path, e2e / "refcoco_out.jsonl", "refcoco", "REC_refcoco_made_val")
    info = import_results(ReferenceFiles(refcoco=theirs), golden_root, tmp_path / "theirs", "tiny")
    assert info.kind == "refcoco" and info.counts["done"] == 6
    engine = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    evaluate(RefCoco(golden_root), engine, tmp_path / "ours")
    (written,) = export_results(tmp_path / "ours", tmp_path / "up")
    assert written.name == "REC_refcoco_made_val.jsonl"
    drop = {"answer_id", "model_id"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in rows(written)] == [
        {k: v for k, v in row.items() if k not in drop} for row in rows(theirs / written.name)
    ]


def test_files_of_another_benchmark_are_refused(
    files: ReferenceFiles, golden_root: Path, tmp_path: Path
) -> None:
    assert files.boxes is not None
    path = files.boxes / "made.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="11 lines for 12 questions"):
        import_results(files, golden_root, tmp_path / "out", "x")
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(DataError, match=r"made.jsonl:1: the box .* is not that of question 650"):
        import_results(files, golden_root, tmp_path / "out", "x")
    for broken in ('"bbox": [1, 2, 3]', '"bbox": "a box"', '"bbox": ["a", 2, 3, 4]'):
        first = re.sub(r'"bbox": \[[^]]*\]', broken, lines[0], count=1)
        path.write_text("".join([first, *lines[1:]]))
        with pytest.raises(DataError, match=r"made.jsonl:1: the box .* is not that of question"):
            import_results(files, golden_root, tmp_path / "out", "x")
    path.write_text("[1]\n" * len(lines))
    with pytest.raises(DataError, match="not a result file of the reference"):
        import_results(files, golden_root, tmp_path / "out", "x")
    with pytest.raises(UsageError, match="no strategy 'best'"):
        import_results(ReferenceFiles(answers={"best": tmp_path}), golden_root, tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()


def test_a_part_of_the_boxes_is_not_written(golden_root: Path, shared: Path, tmp_path: Path) -> None:
    engine = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    evaluate(VisualCot(golden_root, select=Selection(limit=3)), engine, tmp_path / "run")
    assert read_run(tmp_path / "run").counts["done"] == 3
    with pytest.raises(DataError, match="9 of 12 boxes are not there"):
        export_results(tmp_path / "run", tmp_path / "up")


def test_answers_may_come_after_the_boxes(files: ReferenceFiles, golden_root: Path, tmp_path: Path) -> None:
    assert files.answers is not None
    at_once = tmp_path / "at-once"
    import_results(files, golden_root, at_once, "tiny_llava")
    for part in (
        ReferenceFiles(files.boxes),
        ReferenceFiles(answers={"cot": files.answers["cot"]}),
        ReferenceFiles(answers={name: files.answers[name] for name in ("direct", "gt-box")}),
    ):
        import_results(part, golden_root, tmp_path / "in-turn", "tiny_llava")
    found, whole = ({p.key: p for p in read_predictions(tmp_path / name)} for name in ("in-turn", "at-once"))
    assert found == whole
    assert read_run(tmp_path / "in-turn").counts == read_run(at_once).counts
