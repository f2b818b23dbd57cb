"""Run folders from the reference's own result files, and back (``bench import``, ``bench export``)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from viscot_core.boxes.geometry import Box
from viscot_core.engines.open import recorded_prompt
from viscot_core.errors import UsageError
from viscot_core.images.view import View
from viscot_core.policies.base import Answer, Question
from viscot_core.rollout import replay
from viscot_core.runs.answering import record
from viscot_core.runs.journal import Journal
from viscot_core.runs.records import Prediction, RunInfo, read_predictions, read_run
from viscot_core.runs.tally import Tally, conclude
from viscot_core.tasks.base import Item, Task
from viscot_core.tasks.reference_export import write_results
from viscot_core.tasks.reference_files import RecordedWords, ReferenceFiles, read_results
from viscot_core.tasks.registry import TASKS

ENGINE = {"engine": "reference", "template": "vicuna_v1"}
SETTINGS = {"engine": ENGINE, "box_format": "viscot"}
"""Of every imported run: the reference has one way to ask."""


def import_results(files: ReferenceFiles, data: Path, out: Path, model: str) -> RunInfo:
    """Read the reference's results into the run folder ``out``; needs ``data``'s annotations, no images.

    Raises:
        UsageError, DataError: as ``read_results``.
    """
    results = read_results(files, data)
    task = TASKS[results.kind]
    predictions = [_measured(task, item, words) for item, words in results.words]
    counts = results.benchmark.planned()
    planned: dict[str, dict[str, int]] = {}
    for p in predictions:
        planned.setdefault(p.strategy, {})[p.dataset] = counts[p.dataset]
    with Journal(out) as journal:
        info = RunInfo(
            kind=results.kind,
            model=model,
            data=str(data.absolute()),
            settings=SETTINGS,
            hashes=results.benchmark.hashes,
            planned=planned,
            warnings=list(results.benchmark.warnings),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        info = journal.begin(info)
        # Only lines that say something new are appended: the same import twice changes nothing.
        joined = [_joined(journal.finished.get(p.key), p) for p in predictions]
        journal.add(p for p in joined if p != journal.finished.get(p.key))
        return conclude(journal, info, Tally())


def _measured(task: type[Task], item: Item, words: RecordedWords) -> Prediction:
    """The record of an item's words: box, crop and IoU come from running the policy on them."""
    strategy = task.all_strategies[words.strategy]
    blank = View(Image.new("1", item.size), item.image)  # nothing is shown to a model, only its size counts
    question = Question(item.question, (blank,), words.region)
    answer = Answer("", item.size)
    if strategy.region is None or words.region is not None:
        said = strategy.said(words.box_text, words.answer)
        steps, whole = replay(strategy.policy(SETTINGS), question, said)
        answer = whole or Answer("", item.size, steps[-1].looks)
    facts = {**task.metrics(item, answer, SETTINGS), "answer": words.answer}
    return record(item, words.strategy, status="done", **facts)


def _joined(before: Prediction | None, found: Prediction) -> Prediction:
    """What the files say now, and what earlier ones said of the same item (boxes first, answers later)."""
    if before is None:
        return found
    said = {name: value for name, value in found.model_dump().items() if value is not None}
    return before.model_copy(update=said)


def export_results(run: Path, out: Path) -> list[Path]:
    """Write a run's finished items as the reference's files under ``out`` (``write_results``); the paths.

    Raises:
        UsageError: the run's boxes are in another form than the reference's.
        DataError: boxes of a data set are not all there.
    """
    info = read_run(run)
    if info.settings.get("box_format") != "viscot":
        raise UsageError(
            f"{run} holds boxes of another model family; the reference's files have only its own form."
        )
    words = [
        RecordedWords(
            p.strategy, p.dataset, p.question_id, p.box_text, p.answer, Box(*p.box) if p.box else None
        )
        for p in read_predictions(run)
        if p.done
    ]
    model = info.model.rstrip("/").rpartition("/")[2]
    return write_results(words, Path(info.data), model, recorded_prompt(ENGINE), out)
