"""Scores between viscot and lmms-eval: the exact judge for its tasks, its per-sample scores for our run
folders.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from viscot_core.boxes.geometry import Box, BoxStatus, crop_window, iou
from viscot_core.boxes.registry import codec
from viscot_core.lmms_eval.logs import SCORER, read_logs
from viscot_core.runs.records import read_predictions, read_run
from viscot_core.score.offline import exact
from viscot_core.score.protocols import final_answer
from viscot_core.score.verdicts import (
    JudgeIdentity,
    Outcome,
    Pair,
    ScoreLog,
    State,
    Verdict,
    pair_of,
    scores_path,
)

Scored = dict[str, Any]
"""One sample of a packaged task: ``dataset``, ``question_id``, ``score``."""


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Scored]:
    """``visual_cot``: the exact judge's score, under ``exact`` and under the data set's own name."""
    return _under_both(doc, exact(str(doc["reference"]), results[0]))


def chain_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Scored]:
    """``visual_cot_chain``: the same of the answer, and ``acc50`` of the box (IoU above 0.5, Table 7)."""
    said = json.loads(results[0])
    size = (doc["width"], doc["height"])
    parsed = codec(said["box_format"]).parse(said["box_text"], size)
    found = parsed.status is not BoxStatus.UNPARSABLE and iou(parsed.box, Box(*doc["box_gt"])) > 0.5
    look = {"dataset": doc["dataset"], "box_status": parsed.status.value, "box": parsed.box.coords}
    scores = _under_both(doc, exact(str(doc["reference"]), said["answer"]))
    return {**scores, "acc50": {"score": float(found), **look, "crop": crop_window(parsed.box, size)}}


def search_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Scored]:
    """``viscot_vstar`` and its kin: viscot's own reading of the final answer, as ``accuracy``."""
    pair = Pair(doc["question"], doc["reference"], results[0], tuple(doc["options"]), doc["dataset"])
    outcome = final_answer(pair)
    row = {name: doc[name] for name in ("dataset", "question_id", "category")}
    return {"accuracy": {"score": outcome.score or 0.0, "reason": outcome.reason, **row}}


def _under_both(doc: Mapping[str, Any], score: float) -> dict[str, Scored]:
    """The row goes into the log with its score: lmms-eval keeps no more of a document than its number."""
    row = {name: doc[name] for name in ("dataset", "question_id", "question", "image", "box_gt")}
    scored: Scored = {"score": score, "size": (doc["width"], doc["height"]), **row}
    return {"exact": scored, str(doc["dataset"]): scored}


def mean(items: Iterable[Scored]) -> float:
    """Mean score of one data set."""
    return fmean(item["score"] for item in items)


def mean_of_datasets(items: Iterable[Scored]) -> float:
    """Mean of the data sets' means, as the paper averages."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for item in items:
        by_name[item["dataset"]].append(item["score"])
    return fmean(fmean(scores) for scores in by_name.values())


def import_scores(run: Path) -> int:
    """Append lmms-eval's score of every sample that has none yet to ``scores.lmms-eval.jsonl``; how many.

    A sample that its task scores only together with others (MMBench) is unscored, a failed one has none.

    Raises:
        DataError: a log of lmms-eval is damaged.
    """
    version = read_run(run).environment.get("lmms-eval", "")
    judge = JudgeIdentity.now(SCORER, f"{SCORER} {version}".strip(), None, None)
    given = {sample.key: sample.score for sample in read_logs(run)}
    verdicts = []
    with ScoreLog(scores_path(run, SCORER), judge) as log:
        for prediction in read_predictions(run):
            pair = pair_of(prediction)
            # Written before: the same call again appends only what has come since.
            if pair is None or prediction.key in log.scores.verdicts:
                continue
            score = given.get(prediction.key)
            outcome = (
                Outcome(State.UNSCORED, reason="its task has no score of single samples")
                if score is None
                else Outcome(State.SCORED, score)
            )
            verdicts.append(
                Verdict(
                    prediction.strategy, prediction.dataset, prediction.question_id, outcome, pair.digest()
                )
            )
        log.append(verdicts)
    return len(verdicts)
