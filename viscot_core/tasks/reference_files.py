"""The reference's own result files, read: which words it has on record for which question.

They hold one JSON line an item: ``detection/NAME.jsonl`` boxes (question_id is always 0 there, so lines are
matched by order and checked by their box), answers per strategy (matched by id), and RefCOCO's boxes (by
order, checked). Only words are taken from them: status, crop and IoU always come from viscot's own parser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from viscot_core.boxes.geometry import Box
from viscot_core.errors import DataError, UsageError
from viscot_core.tasks.base import Benchmark, Item
from viscot_core.tasks.loading import Selection
from viscot_core.tasks.refcoco import REFCOCO_STRATEGY, RefCoco, load_refcoco
from viscot_core.tasks.visual_cot.strategies import STRATEGIES
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot

SAME_BOX = 0.01
"""How far a file's box may be from the benchmark's, in pixels, to be of the same item."""
NO_IMAGES = Selection(need_images=False)
_UNKNOWN = {"random-box"}
"""Strategies whose region depends on a seed that the files do not keep."""


@dataclass(frozen=True)
class ReferenceFiles:
    """Where the reference's results lie: a folder of boxes, one of answers per strategy, one of RefCOCO."""

    boxes: Path | None = None
    answers: Mapping[str, Path] | None = None
    refcoco: Path | None = None


@dataclass(frozen=True)
class RecordedWords:
    """What was said about a question under a strategy, and the region that was given to the model."""

    strategy: str
    dataset: str
    question_id: int | str
    box_text: str | None = None
    """The model's own words of the box, or the words of a given one."""
    answer: str | None = None
    region: Box | None = None


@dataclass(frozen=True)
class Results:
    """The words of one task's questions; ``kind`` names the task."""

    kind: str
    benchmark: Benchmark
    words: list[tuple[Item, RecordedWords]]


def read_results(files: ReferenceFiles, data: Path) -> Results:
    """The words on record; needs ``data``'s annotations, no images.

    Raises:
        UsageError: nothing to read, or an unknown strategy.
        DataError: a file does not belong to the benchmark: another number of lines, other boxes, unknown ids.
    """
    unknown = [name for name in files.answers or {} if name not in STRATEGIES]
    if unknown:
        raise UsageError(f"There is no strategy '{unknown[0]}'; the strategies are {', '.join(STRATEGIES)}.")
    results = _read_refcoco(files.refcoco, data) if files.refcoco else _read_visual_cot(files, data)
    if not results.words:
        raise UsageError("Nothing to read: give --boxes, --answers STRATEGY=FOLDER or --refcoco.")
    return results


def _read_visual_cot(files: ReferenceFiles, data: Path) -> Results:
    folders = {**(files.answers or {})}
    names = sorted({f.stem for d in [*folders.values(), files.boxes] if d for f in Path(d).glob("*.jsonl")})
    benchmark = load_visual_cot(data, tasks=names, select=NO_IMAGES)
    words: list[tuple[Item, RecordedWords]] = []
    for name in names:
        items = [item for item in benchmark.items if item.dataset == name]
        boxes = _box_texts(files.boxes / f"{name}.jsonl", items) if files.boxes else {}
        said = {s: _answers(folder / f"{name}.jsonl", items) for s, folder in folders.items()}
        # Boxes alone are cot whose answers have not come yet.
        if files.boxes and "cot" not in said:
            said["cot"] = {}
        for strategy, answers in said.items():
            words += _of_strategy(items, strategy, boxes, answers)
    return Results(VisualCot.kind, benchmark, words)


def _of_strategy(
    items: Sequence[Item], name: str, boxes: Mapping[str, str], answers: Mapping[str, str]
) -> list[tuple[Item, RecordedWords]]:
    """The words about each item that has an answer, or (where the model names it) a box."""
    strategy = STRATEGIES[name]
    found = []
    for item in items:
        key = str(item.question_id)
        box_text = boxes.get(key) if strategy.asks_for_box else None
        if key not in answers and box_text is None:
            continue
        # A box drawn by seed cannot be drawn again here, so such an answer is kept without one.
        known = strategy.region is not None and name not in _UNKNOWN
        region = strategy.region(item, {})[0] if known and strategy.region else None
        said = RecordedWords(name, item.dataset, item.question_id, box_text, answers.get(key), region)
        found.append((item, said))
    return found


def _read_refcoco(folder: Path, data: Path) -> Results:
    named = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    whole = load_refcoco(data, select=NO_IMAGES)
    if not set(named) & set(whole.files.values()):
        raise UsageError(f"{folder} has no file named like those of {data / 'refcoco'}.")
    words = []
    for split, file in whole.files.items():
        if file not in named:
            continue
        items = [item for item in whole.items if item.dataset == split]
        texts = _box_texts(named[file], items)
        words += [
            (item, RecordedWords(REFCOCO_STRATEGY, split, item.question_id, texts[str(item.question_id)]))
            for item in items
        ]
    return Results(RefCoco.kind, whole, words)


def _box_texts(path: Path, items: Sequence[Item]) -> dict[str, str]:
    """Box words by question id: line n is item n, and its box must say so too."""
    rows = _rows(path)
    if len(rows) != len(items):
        raise DataError(
            f"{path} has {len(rows)} lines for {len(items)} questions; it belongs to another benchmark."
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
    assert item.box is not None
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
        raise DataError(f"{path} is not a JSON Lines file ({error}).") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} has lines that are not objects; it is not a result file of the reference.")
    return rows
