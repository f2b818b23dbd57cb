"""The reference's own evaluation run over the golden checkpoint: same prompts, boxes and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viscot_core.engines.open import EngineOptions
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import Prediction, read_predictions
from viscot_core.tasks.refcoco import RefCoco
from viscot_core.tasks.visual_cot.task import VisualCot


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def engine(shared: Path) -> EngineOptions:
    return EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32", batch_size=5)


def by_strategy(folder: Path) -> dict[str, dict[int | str, Prediction]]:
    table: dict[str, dict[int | str, Prediction]] = {}
    for prediction in read_predictions(folder):
        table.setdefault(prediction.strategy, {})[prediction.question_id] = prediction
    return table


def test_boxes_and_answers_are_the_references(
    engine: EngineOptions, golden_root: Path, shared: Path, tmp_path: Path
) -> None:
    e2e = shared / "golden" / "e2e"
    info, _ = evaluate(VisualCot(golden_root, ("cot", "direct", "gt-box")), engine, tmp_path)
    assert info.counts["done"] == 36
    found = by_strategy(tmp_path)
    ids = [int(str(row["question_id"])) for row in rows(e2e / "answer_gt.jsonl")]
    boxes = dict(zip(ids, (row["text"] for row in rows(e2e / "detection.jsonl")), strict=True))
    assert {key: p.box_text for key, p in found["cot"].items()} == boxes
    for strategy, name in (("direct", "answer_direct"), ("gt-box", "answer_gt")):
        answers = {row["question_id"]: row["text"] for row in rows(e2e / f"{name}.jsonl")}
        assert {key: p.answer for key, p in found[strategy].items()} == answers
    # The reference stops at malformed boxes; its second run had them replaced. Where it read the model's own:
    fixed = dict(zip(ids, (row["text"] for row in rows(e2e / "detection_fixed.jsonl")), strict=True))
    answers = {row["question_id"]: row["text"] for row in rows(e2e / "answer_pred.jsonl")}
    own = [key for key in ids if boxes[key] == fixed[key]]
    assert len(own) == 8
    assert {key: found["cot"][key].answer for key in own} == {key: answers[key] for key in own}


def test_refcoco_texts_are_the_references(
    engine: EngineOptions, golden_root: Path, shared: Path, tmp_path: Path
) -> None:
    e2e = shared / "golden" / "e2e"
    info, _ = evaluate(RefCoco(golden_root), engine, tmp_path)
    assert info.counts["done"] == 6
    texts = [p.box_text for p in read_predictions(tmp_path)]
    assert sorted(map(str, texts)) == sorted(str(row["text"]) for row in rows(e2e / "refcoco_out.jsonl"))
    expected = dict(
        zip(
            (r["question_id"] for r in rows(e2e / "refcoco.jsonl")),
            (r["text"] for r in rows(e2e / "refcoco_out.jsonl")),
            strict=True,
        )
    )
    assert {p.question_id: p.box_text for p in read_predictions(tmp_path)} == expected
