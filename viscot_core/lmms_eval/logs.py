"""lmms-eval's result files, read: each task's figures, each sample's answer and score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viscot_core.errors import DataError
from viscot_core.lmms_eval import CHAIN
from viscot_core.runs.records import Key

SCORER = "lmms-eval"
"""The judge's name that its scores have in a run folder."""
LOGS = "lmms-eval"
"""Where its own logs lie in a run folder."""
LOOKS_FILE = "looks.jsonl"

Figures = dict[str, float]
"""A task's metrics by name, in its own unit (exact_match 0..1, MME points, MMBench percent)."""


@dataclass(frozen=True)
class LoggedSample:
    """One answered document of a task. ``dataset`` is the task's name, or what its rows say themselves."""

    strategy: str
    task: str
    dataset: str
    question_id: int | str
    question: str
    reference: str
    answer: str
    score: float | None
    """0..1; None where the task scores its samples only together."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """What a packaged task says of its own rows: image, size, box_gt."""
    look: Mapping[str, Any] = field(default_factory=dict)
    """What the viscot class or the chain say of the box: box_text, box_status, box, crop, error, seconds."""

    @property
    def key(self) -> Key:
        return (self.strategy, self.dataset, str(self.question_id))


@dataclass(frozen=True)
class TaskLog:
    """What lmms-eval wrote about one task."""

    task: str
    figures: Figures
    samples: list[LoggedSample]


def read_task(folder: Path, strategy: str) -> list[TaskLog]:
    """The finished run in ``folder``; a group of tasks gives one log for each of its tasks.

    Raises:
        DataError: no results there, or a damaged file; the message names it.
    """
    results = sorted(folder.rglob("*_results.json"))
    if not results:
        raise DataError(f"{folder} has no results of lmms-eval; run the same 'viscot bench general' again.")
    try:
        data = json.loads(results[-1].read_bytes())
        looks = {(row["task"], row["doc_id"]): row for row in _lines(folder / LOOKS_FILE)}
        logs = []
        for file in sorted(results[-1].parent.glob("*_samples_*.jsonl")):
            task = file.stem.partition("_samples_")[2]
            figures = _figures(data["results"].get(task, {}))
            samples = [
                _sample(strategy, task, row, figures, looks.get((task, row["doc_id"]), {}))
                for row in _lines(file)
            ]
            logs.append(TaskLog(task, figures, samples))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"The results of lmms-eval in {folder} cannot be read ({error!r}).") from error
    return logs


def read_logs(run: Path) -> list[LoggedSample]:
    """Every sample of every finished task in a run folder's logs."""
    folders = [f for f in sorted((run / LOGS).glob("*/*")) if any(f.rglob("*_results.json"))]
    return [sample for f in folders for log in read_task(f, f.parent.name) for sample in log.samples]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _figures(results: Mapping[str, Any]) -> Figures:
    """``{"exact_match,none": 0.6, "exact_match_stderr,none": ..}`` without errors of estimate and text."""
    figures: Figures = {}
    for name, value in results.items():
        metric, _, _filter = name.partition(",")
        if _filter and "_stderr" not in metric and isinstance(value, (int, float)):
            figures.setdefault(metric, float(value))
    return figures


def _sample(
    strategy: str, task: str, data: Mapping[str, Any], figures: Figures, look: Mapping[str, Any]
) -> LoggedSample:
    metrics = {name: data[name] for name in figures if name in data}
    row = next((m for m in metrics.values() if isinstance(m, dict) and "box_gt" in m), {})
    answer = _text(data.get("filtered_resps", data.get("resps", ""))).strip()
    # This task answers with both turns as one JSON text (``utils.chain_to_text``).
    if task == CHAIN:
        said = json.loads(answer)
        answer, look = (
            said["answer"].strip(),
            {**look, "box_text": said["box_text"], **metrics.get("acc50", {})},
        )
    return LoggedSample(
        strategy=strategy,
        task=task,
        dataset=str(row.get("dataset", task)),
        question_id=row.get("question_id", data["doc_id"]),
        question=str(row.get("question", data.get("input", ""))),
        reference=str(data["target"]),
        answer=answer,
        score=next((s for m in metrics.values() if (s := _score(m)) is not None), None),
        row=row,
        look=look,
    )


def _text(answer: Any) -> str:
    if isinstance(answer, list) and len(answer) == 1:
        return _text(answer[0])
    return answer if isinstance(answer, str) else json.dumps(answer)


def _score(metric: Any) -> float | None:
    """A sample's metric as a score: a number, or what stands under ``score``."""
    value = metric.get("score") if isinstance(metric, dict) else metric
    return float(value) if isinstance(value, (bool, int, float)) and 0 <= value <= 1 else None
