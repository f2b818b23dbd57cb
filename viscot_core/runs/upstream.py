"""The reference's own result files become a run folder.

They hold one JSON line an item: ``detection/NAME.jsonl`` boxes (question_id is always 0 there, so lines are
matched by order and checked by their box), answers per condition (matched by id), and RefCOCO's boxes (by
order, checked). What is read is judged anew by viscot's parser: status, crop and IoU never come from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from viscot_core.boxes.geometry import CENTER, Box, ParsedBox, crop_window, format_box, parse_box
from viscot_core.errors import DataError, UsageError
from viscot_core.runs.journal import Journal
from viscot_core.runs.records import Prediction, RunInfo
from viscot_core.runs.run import Tally, conclude
from viscot_core.tasks.asking import Job, Look, done, overlap
from viscot_core.tasks.items import Benchmark, Item, load_cot, load_refcoco
from viscot_core.tasks.strategies import REFCOCO_STRATEGY, STRATEGIES, annotated_box

SAME_BOX = 0.01
"""How far a file's box may be from the benchmark's, in pixels, to be of the same item."""


@dataclass(frozen=True)
class UpstreamFiles:
    """Where the reference's results lie: a folder of boxes, one of answers per strategy, one of RefCOCO."""

    boxes: Path | None = None
    answers: Mapping[str, Path] | None = None
    refcoco: Path | None = None


def import_upstream(files: UpstreamFiles, data: Path, out: Path, model: str) -> RunInfo:
    """Read the reference's results into the run folder ``out``; needs ``data``'s annotations, no images.

    Raises:
        UsageError: nothing to read, or an unknown strategy.
        DataError: a file does not belong to the benchmark: another number of lines, other boxes, unknown ids.
    """
    unknown = [name for name in files.answers or {} if name not in STRATEGIES]
    if unknown:
        raise UsageError(f"There is no strategy '{unknown[0]}'; there are {', '.join(STRATEGIES)}.")
    if files.refcoco is not None:
        benchmark, predictions = _read_refcoco(files.refcoco, data)
    else:
        benchmark, predictions = _read_cot(files, data)
    if not predictions:
        raise UsageError("There is nothing to read: give --boxes, --answers STRATEGY=FOLDER or --refcoco.")
    counts = benchmark.planned()
    planned: dict[str, dict[str, int]] = {}
    for p in predictions:
        planned.setdefault(p.strategy, {})[p.dataset] = counts[p.dataset]
    with Journal(out) as journal:
        info = RunInfo(
            kind="refcoco" if benchmark.kind == "refcoco" else "cot",
            model=model,
            data=str(data.absolute()),
            settings={"engine": {"engine": "reference", "template": "vicuna_v1"}, "box_format": "viscot"},
            hashes=benchmark.hashes,
            planned=planned,
            warnings=list(benchmark.warnings),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        info = journal.begin(info)
        joined = [_joined(journal.finished.get(p.key), p) for p in predictions]
        journal.add(p for p in joined if p != journal.finished.get(p.key))
        return conclude(journal, info, Tally())


def _joined(before: Prediction | None, found: Prediction) -> Prediction:
    """What the files say now, and what earlier ones said of the same item (boxes first, answers later)."""
    if before is None:
        return found
    said = {name: value for name, value in found.model_dump().items() if value is not None}
    return before.model_copy(update=said)


def _read_cot(files: UpstreamFiles, data: Path) -> tuple[Benchmark, list[Prediction]]:
    folders = {**(files.answers or {})}
    names = sorted({f.stem for d in [*folders.values(), files.boxes] if d for f in Path(d).glob("*.jsonl")})
    benchmark = load_cot(data, tasks=names, need_images=False)
    predictions: list[Prediction] = []
    for name in names:
        items = [item for item in benchmark.items if item.dataset == name]
        boxes = _box_texts(files.boxes / f"{name}.jsonl", items) if files.boxes else {}
        said = {s: _answers(folder / f"{name}.jsonl", items) for s, folder in folders.items()}
        if files.boxes and "cot" not in said:
            said["cot"] = {}
        for strategy, answers in said.items():
            predictions += _conditions(items, strategy, boxes, answers)
    return benchmark, predictions


def _conditions(
    items: Sequence[Item], strategy: str, boxes: Mapping[str, str], answers: Mapping[str, str]
) -> list[Prediction]:
    """One prediction for each item that has an answer, or (cot) a box."""
    found = []
    for item in items:
        key = str(item.question_id)
        box_text = boxes.get(key) if STRATEGIES[strategy].box_from == "model" else None
        if key not in answers and box_text is None:
            continue
        found.append(_prediction(item, strategy, box_text, answers.get(key)))
    return found


def _prediction(item: Item, strategy: str, box_text: str | None, answer: str | None) -> Prediction:
    parsed: ParsedBox | None = None
    box: Box | None = None
    if box_text is not None:
        parsed = parse_box(box_text)
        box = parsed.box
    elif strategy == "gt-box":
        box = annotated_box(item)
    elif strategy == "center-box":
        box = CENTER
    shows_crop = strategy in STRATEGIES and STRATEGIES[strategy].shows_crop
    facts = {
        "answer": answer,
        "box_text": box_text if box_text is not None or box is None else format_box(box),
        "box_status": parsed.status.value if parsed else None,
        "box": box.coords if box else None,
        "crop": crop_window(box, item.size) if box and shows_crop else None,
        "iou": overlap(parsed, box, item, False),
    }
    return done(Job(Look(item, None), strategy), 0.0, facts)


def _read_refcoco(folder: Path, data: Path) -> tuple[Benchmark, list[Prediction]]:
    named = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    whole = load_refcoco(data, need_images=False)
    files = {file: path for file, path in named.items() if file in whole.files.values()}
    if not files:
        raise UsageError(f"{folder} has no file named as those of {data / 'refcoco'}.")
    predictions = []
    for split, file in whole.files.items():
        if file not in files:
            continue
        items = [item for item in whole.items if item.dataset == split]
        texts = _box_texts(files[file], items)
        predictions += [_prediction(i, REFCOCO_STRATEGY, texts[str(i.question_id)], None) for i in items]
    return whole, predictions


def _box_texts(path: Path, items: Sequence[Item]) -> dict[str, str]:
    """Box words by question id: line n is item n, and its box must say so too."""
    rows = _rows(path)
    if len(rows) != len(items):
        raise DataError(
            f"{path} has {len(rows)} lines for {len(items)} questions; it is of another benchmark."
        )
    texts = {}
    for number, (row, item) in enumerate(zip(rows, items, strict=True), 1):
        bbox = row.get("bbox")
        if not _same_box(bbox, item):
            raise DataError(f"{path}:{number}: the box {bbox} is not that of question {item.question_id}.")
        texts[str(item.question_id)] = str(row.get("text", ""))
    return texts


def _same_box(found: Any, item: Item) -> bool:
    if not isinstance(found, list) or len(found) != 4 or not all(isinstance(n, int | float) for n in found):
        return False
    return all(abs(a - b) <= SAME_BOX for a, b in zip(found, item.box.coords, strict=True))


def _answers(path: Path, items: Sequence[Item]) -> dict[str, str]:
    """Answers by question id; a file may be short (the reference stops at a malformed box)."""
    if not path.is_file():
        return {}
    known = {str(item.question_id) for item in items}
    answers: dict[str, str] = {}
    for number, row in enumerate(_rows(path), 1):
        key = str(row.get("question_id"))
        if key not in known:
            raise DataError(f"{path}:{number}: question {key} is not in the benchmark.")
        answers[key] = str(row.get("text", ""))
    return answers


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON lines file ({error}).") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds lines that are no objects; it is no result file of the reference.")
    return rows
