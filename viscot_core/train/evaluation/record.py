"""The evaluations of a stage on disk: one line each, and which model was the best.

``STAGE/evaluations.jsonl`` has every evaluation once, in the order of its steps, also after a kill and a
resume. ``STAGE/best`` is the model with the best figure, a checkpoint like any other; ``best.json`` in it
names step, figure and value, and is written with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from viscot_core.errors import DataError
from viscot_core.files import atomic_write, sync_folder

LOG_FILE = "evaluations.jsonl"
BEST, BEST_FILE = "best", "best.json"
FIGURES = {"loss": "eval_loss", "answers": "eval_answers", "box": "eval_box", "iou": "eval_iou"}
"""The log's name of each figure that a recipe can choose the best model by."""


@dataclass(frozen=True, slots=True)
class Best:
    """The step of the best model so far, by which figure, and its value."""

    step: int
    figure: str
    value: float

    def beaten_by(self, value: float) -> bool:
        """Whether ``value`` is better; an equal one is not."""
        return value < self.value if self.figure == "loss" else value > self.value


def continued(stage: Path, step: int) -> list[dict[str, Any]]:
    """The evaluations up to ``step``, from which the stage goes on; later ones are taken out of the log.

    They belong to steps that were lost with a kill, and will be measured again. Called by one process.
    """
    if not (stage / BEST).exists() and _before(stage).exists():
        _before(stage).replace(stage / BEST)  # killed between the two renames of `put`
    path = stage / LOG_FILE
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete it, then --resume.") from error
    kept = [line for line in lines if line["step"] <= step]
    if len(kept) < len(lines):
        with atomic_write(path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
    return kept


def add(stage: Path, step: int, figures: Mapping[str, float]) -> None:
    """Append an evaluation to the log."""
    with (stage / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **figures}) + "\n")


def best_of(stage: Path) -> Best | None:
    """The best model that is on the disk, or None."""
    path = stage / BEST / BEST_FILE
    try:
        return Best(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete {path.parent}, then --resume.") from error


def put(stage: Path, best: Best, model: Path) -> None:
    """Put the model of the folder ``model`` in the place of the best one before it."""
    (model / BEST_FILE).write_text(json.dumps(asdict(best)) + "\n", encoding="utf-8")
    sync_folder(model)
    before = _before(stage)
    shutil.rmtree(before, ignore_errors=True)
    if (stage / BEST).exists():
        (stage / BEST).replace(before)
    model.replace(stage / BEST)
    shutil.rmtree(before, ignore_errors=True)


def _before(stage: Path) -> Path:
    return stage / f"{BEST}.before"


def without_gain(evaluations: list[dict[str, Any]], figure: str) -> int:
    """How many evaluations in a row, up to the last, brought no better figure."""
    name, best, since = FIGURES[figure], None, 0
    for line in evaluations:
        value = line.get(name)
        if value is None:
            continue
        if best is None or Best(0, figure, best).beaten_by(value):
            best, since = value, 0
        else:
            since += 1
    return since
