"""Reads the result files of the reference implementation as runs, so that they get the same statistics.

It reads the reference's ``results`` folder (``scores/BENCHMARK/DATASET/CKPT.json``,
``detection/DATASET/CKPT.jsonl`` and ``REC_SPLIT/results/CKPT.jsonl``), one such ``.jsonl`` of boxes, or a
``.json`` that combines them as
``{"scores": {BENCHMARK: {DATASET: [score, ...]}}}`` or ``{"inputs": {DATASET: [row, ...]}}``.

The reference writes 0 for a failed judge call and for an unreadable reply: its zeros can mean either.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import Box, BoxStatus, Frame, iou, parse_box
from viscot_core.errors import DataError, UsageError
from viscot_core.report.names import canonical
from viscot_core.report.scored_run import ScoredItem, ScoredRun
from viscot_core.runs.records import RUN_FILE, Prediction, RunInfo
from viscot_core.score.verdicts import JudgeIdentity, Outcome, State
from viscot_core.tasks.suites import REFCOCO as SPLITS

STRATEGIES = {
    "cot": "cot",
    "cot_gtbbox": "gt-box",
    "cot_direct": "direct",
    "cot_random": "random-box",
    "cot_center": "center-box",
    "cot_woimg": "no-image",
}
"""The reference's benchmark names and ours."""

REFCOCO = {
    "REC_" + split.replace("/", "_umd_" if split.startswith("refcocog/") else "_unc_"): split
    for split in SPLITS
}
"""The reference's names of RefCOCO's splits (with the author of the split) and ours."""

Scores = Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]
"""``benchmark -> data set -> (question id, score)``."""
Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def is_reference_results(path: Path) -> bool:
    """Whether a path holds the reference's results rather than a run folder."""
    if path.is_file():
        return path.suffix in (".json", ".jsonl")
    found = [path / "scores", path / "detection", *path.glob("REC_*")]
    return not (path / RUN_FILE).exists() and any(p.is_dir() for p in found)


def read_reference_results(path: Path) -> list[ScoredRun]:
    """One run per checkpoint and kind (answers, boxes, RefCOCO) found at ``path``.

    Raises:
        DataError: a file is not a result of the reference; the message names it.
        UsageError: there is nothing to read.
    """
    if path.is_dir():
        runs = list(_folder(path))
        if not runs:
            raise UsageError(f"{path} contains no results of the reference; give its results/viscot folder.")
        return runs
    if path.suffix == ".jsonl":
        return [_boxes_run(path, path.stem, {path.stem: _json_lines(path)})]
    data = _json(path)
    if isinstance(data, dict) and isinstance(data.get("scores"), dict):
        return [_answers_run(path, path.stem, _numbered(path, data["scores"]))]
    if isinstance(data, dict) and isinstance(data.get("inputs"), dict):
        return [_boxes_run(path, path.stem, data["inputs"])]
    raise DataError(f"{path} is not a result of the reference: it has neither 'scores' nor 'inputs'.")


def _folder(path: Path) -> Iterable[ScoredRun]:
    answers: dict[str, dict[str, dict[str, list[tuple[str, float]]]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(path.glob("scores/*/*/*.json")):
        try:
            scored = [(str(row["question_id"]), float(row["score"])) for row in _json(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file} is not a score file of the reference ({error!r}).") from error
        answers[file.stem][file.parts[-3]][file.parts[-2]] = scored
    for checkpoint, scores in answers.items():
        yield _answers_run(path, f"{checkpoint} answers", scores)
    for words, files in (
        ("detection", {f: f.parts[-2] for f in sorted(path.glob("detection/*/*.jsonl"))}),
        ("refcoco", {f: f.parts[-3] for f in sorted(path.glob("REC_*/results/*.jsonl"))}),
    ):
        boxes: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
        for file, dataset in files.items():
            boxes[file.stem][dataset] = _json_lines(file)
        for checkpoint, rows in boxes.items():
            yield _boxes_run(path, f"{checkpoint} {words}", rows)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON ({error}); is it a result of the reference?"
        ) from error


def _numbered(path: Path, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Scores:
    """Give scores without question ids distinct ids, so that two strategies' answers never look paired."""
    try:
        return {
            benchmark: {
                dataset: [(f"{benchmark} {n}", float(value)) for n, value in enumerate(values)]
                for dataset, values in datasets.items()
            }
            for benchmark, datasets in scores.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not contain lists of scores by benchmark and data set ({error})."
        ) from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}:{number} is not valid JSON ({error}).") from error
    return rows


def _answers_run(path: Path, name: str, scores: Scores) -> ScoredRun:
    items = []
    planned = {}
    for benchmark, datasets in scores.items():
        strategy = STRATEGIES.get(benchmark, benchmark)
        for dataset, values in datasets.items():
            planned[strategy, canonical(dataset)] = len(values)
            for question_id, value in values:
                prediction = _prediction(strategy, dataset, question_id, reference="")
                outcome = Outcome(State.SCORED, min(max(value, 0.0), 1.0), clipped=not 0 <= value <= 1)
                items.append(ScoredItem(prediction, outcome))
    judge = JudgeIdentity("reference", "not recorded", None, None, "")
    return ScoredRun(name, path, RunInfo(model=name), judge, tuple(items), planned)


def _boxes_run(path: Path, name: str, rows: Rows) -> ScoredRun:
    items = []
    planned: dict[tuple[str, str], int] = {}
    for dataset, members in rows.items():
        strategy = "refcoco" if dataset in REFCOCO else "cot"
        short = REFCOCO.get(dataset, canonical(dataset))
        planned[strategy, short] = len(members)
        for number, row in enumerate(members):
            try:
                items.append(ScoredItem(_box_prediction(strategy, short, number, row), None))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}: row {number + 1} of {dataset} is not a detection ({error!r})."
                ) from error
    return ScoredRun(name, path, RunInfo(kind="refcoco", model=name), None, tuple(items), planned)


def _box_prediction(strategy: str, dataset: str, number: int, row: Mapping[str, Any]) -> Prediction:
    size = int(row["width"]), int(row["height"])
    x0, y0, x1, y1 = (float(c) for c in row["bbox"])
    truth = Box(x0, y0, x1, y1, Frame.ORIGINAL).to_square(size)
    parsed = parse_box(row["text"])
    readable = parsed.status is not BoxStatus.UNPARSABLE
    return _prediction(
        strategy,
        dataset,
        number,
        width=size[0],
        height=size[1],
        answer=None,
        box_text=row["text"],
        box_status=parsed.status.value,
        box=parsed.box.coords if readable else None,
        box_gt=truth.coords,
        iou=iou(parsed.box, truth) if readable else 0.0,
    )


def _prediction(strategy: str, dataset: str, question_id: str | int, **fields: Any) -> Prediction:
    known = {"image": "", "width": 1, "height": 1, "question": "", "answer": "", "status": "done"}
    return Prediction(strategy=strategy, dataset=dataset, question_id=question_id, **(known | fields))
