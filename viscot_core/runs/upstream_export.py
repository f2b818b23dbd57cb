"""A run folder's items in the reference's own result files, so that its scorer can read new runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from viscot_core.boxes.registry import codec
from viscot_core.conversation import IMAGE
from viscot_core.errors import DataError, UsageError
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.files import atomic_write
from viscot_core.policies.wording import Wording
from viscot_core.runs.records import Prediction, read_predictions, read_run
from viscot_core.tasks.items import Item, load_cot, load_refcoco
from viscot_core.tasks.strategies import REFCOCO_STRATEGY, STRATEGIES


def export_upstream(run: Path, out: Path) -> list[Path]:
    """Write a run's finished items as the reference's files under ``out``; the paths written.

    ``detection/NAME.jsonl`` are cot's boxes, ``results/STRATEGY/NAME.jsonl`` the answers, ``refcoco/*.jsonl``
    the boxes of expressions. Files of boxes are read by line there, so they are only written whole.

    Raises:
        DataError: boxes of a data set are not all there.
    """
    info = read_run(run)
    wording = Wording(codec("viscot"))
    if info.settings.get("box_format") != "viscot":
        raise UsageError(
            f"{run} holds boxes of another family; the reference's files know only its own form."
        )
    by_set: dict[tuple[str, str], list[Prediction]] = {}
    for p in read_predictions(run):
        if p.done:
            by_set.setdefault((p.strategy, p.dataset), []).append(p)
    data, name = Path(info.data), info.model.rstrip("/").rpartition("/")[2]
    written = []
    for (strategy, dataset), rows in by_set.items():
        if strategy == REFCOCO_STRATEGY:
            benchmark = load_refcoco(data, splits=[dataset], need_images=False)
            target = out / "refcoco" / f"{benchmark.files[dataset]}.jsonl"
            written.append(_write(target, _box_rows(benchmark.items, rows, wording, name, refcoco=True)))
            continue
        items = load_cot(data, tasks=[dataset], need_images=False).items
        if strategy == "cot":
            boxes = _box_rows(items, rows, wording, name, refcoco=False)
            written.append(_write(out / "detection" / f"{dataset}.jsonl", boxes))
        answers = _answer_rows(items, rows, wording, name)
        if answers:
            written.append(_write(out / "results" / strategy / f"{dataset}.jsonl", answers))
    return written


def _box_rows(
    items: Sequence[Item], rows: Sequence[Prediction], wording: Wording, model: str, *, refcoco: bool
) -> list[dict[str, Any]]:
    found = {str(p.question_id): p for p in rows}
    absent = [item.name for item in items if str(item.question_id) not in found]
    if absent:
        raise DataError(
            f"{len(absent)} of {len(items)} boxes are not there (first {absent[0]}); the reference reads by "
            "line, so finish the run without --limit first."
        )
    made: list[dict[str, Any]] = []
    for item in items:
        p = found[str(item.question_id)]
        about = {"bbox": list(item.box.coords), "height": item.size[1], "width": item.size[0]}
        if refcoco:
            prompt = f"What are the coordinates of {item.question.lower()} in the image {IMAGE}?"
            row: dict[str, Any] = {"prompt": prompt, "text": p.box_text}
        else:
            prompt = wording.detection(item.question)[0].text.removeprefix(f"{IMAGE}\n")
            row = {"question_id": 0, "prompt": prompt, "text": p.box_text}
        made.append({**row, **about, "answer_id": _id(p), "model_id": model, "metadata": {}})
    return made


def _answer_rows(
    items: Sequence[Item], rows: Sequence[Prediction], wording: Wording, model: str
) -> list[dict[str, Any]]:
    found = {str(p.question_id): p for p in rows}
    made: list[dict[str, Any]] = []
    for item in items:
        p = found.get(str(item.question_id))
        if p is None or p.answer is None:
            continue
        strategy = STRATEGIES[p.strategy]
        if strategy.box_from == "nobody":
            turns = wording.direct(item.question)
        else:
            turn = wording.answer if strategy.shows_crop else wording.without_crop
            turns = turn(item.question, p.box_text or "")
        made.append(
            {
                "question_id": item.question_id,
                "conversations": render(turns, TEMPLATES["vicuna_v1"], generate=True).text,
                "text": p.answer,
                "answer_id": _id(p),
                "model_id": model,
                "prompt": f"{item.question} ",
                "metadata": {},
            }
        )
    return made


def _id(p: Prediction) -> str:
    """A name for the line that is the same whenever it is written."""
    return hashlib.sha256("/".join(p.key).encode()).hexdigest()[:22]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    with atomic_write(path) as file:
        for row in rows:
            file.write(orjson.dumps(row).decode() + "\n")
    return path
