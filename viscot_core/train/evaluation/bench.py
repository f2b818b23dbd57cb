"""A benchmark of the model in training: the questions, prompts, crops and measures of ``viscot bench``.

The engine stands over the weights in training, so nothing is written and nothing loaded. Each process asks
its share of the questions; what the answers came to is put together on all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.table import family_of
from viscot_core.models.load import LoadedModel
from viscot_core.report.intervals import ClusterSample, mean_interval
from viscot_core.runs.answering import Pending, answer_queries
from viscot_core.runs.opening import Query, open_items
from viscot_core.runs.records import Prediction
from viscot_core.score.offline import MEASURES
from viscot_core.tasks.base import Item, Task
from viscot_core.tasks.refcoco import RefCoco
from viscot_core.tasks.visual_cot.task import VisualCot
from viscot_core.train.evaluation.held_out import spread
from viscot_core.train.evaluation.questions import questions_of
from viscot_core.train.recipe.schema import EvalSpec, StageSpec
from viscot_core.train.state.initial import Run

OVERLAPS = 0.5
"""A box is right where its IoU with the annotated one is at least this, as in RefCOCO."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one question; None where there is nothing to compare. ``failed``: no answer at all."""

    number: int
    image: str
    answer: float | None
    iou: float | None
    failed: bool
    unread: bool
    """Its box could not be read; the IoU is then 0."""


class TrainingBench:
    """Questions, chosen once for all evaluations of a stage."""

    def __init__(self, run: Run, stage: StageSpec) -> None:
        assert stage.eval is not None
        self._run, self._spec = run, stage.eval
        self._processor = run.processor_for(stage)
        self._task, asked = _questions(run, stage.eval)
        self.questions = [asked[number] for number in spread(len(asked), stage.eval.questions)]
        self._measure = MEASURES[stage.eval.judge]

    def ask(self, rank: int, processes: int) -> list[Asked]:
        """The outcomes of this process's questions.

        Raises:
            EngineError: nothing can be generated.
        """
        own = range(len(self.questions))[rank::processes]
        settings = self._settings()
        loaded = open_items([self.questions[number][0] for number in own])
        queries = [Query(each, self.questions[n][1]) for n, each in zip(own, loaded, strict=True)]
        # A compiled model would be compiled for every length; an engine asks its model as it is opened.
        with torch.compiler.set_stance("force_eager"):
            records = answer_queries(self._task, settings, self._engine(), queries)
        return [self._outcome(number, record) for number, record in zip(own, records, strict=True)]

    def _engine(self) -> LocalEngine:
        # A new one each time: buffers, graphs and prefixes of the weights as they were do not survive.
        run, processor = self._run, self._processor
        family = run.base.family if run.base else family_of(run.model.config.to_dict())
        loaded = LoadedModel(run.model, family, processor, run.manifest(), run.folder, "in training")
        return LocalEngine(loaded, batch_size=self._spec.batch, resize=processor.boxes.resize)

    def _settings(self) -> dict[str, Any]:
        return {"box_format": self._processor.boxes.name, "max_new_tokens": self._spec.max_new_tokens}

    def _outcome(self, number: int, record: Prediction | Pending) -> Asked:
        item = self.questions[number][0]
        if isinstance(record, Pending) or record.status == "failed":
            return Asked(number, item.image, None, None, failed=True, unread=False)
        compared = item.reference is not None and record.answer is not None
        answer = self._measure(item.reference or "", record.answer or "") if compared else None
        unread = record.box_status == "unparsable"
        return Asked(number, item.image, answer, record.iou, failed=False, unread=unread)


def _questions(run: Run, spec: EvalSpec) -> tuple[type[Task], list[tuple[Item, str]]]:
    """The task that measures, and each question with its strategy."""
    if spec.bench is None:
        assert spec.file is not None
        return VisualCot, questions_of(run.root / spec.file, run.images)
    task = VisualCot(run.root) if spec.bench == "cot" else RefCoco(run.root)
    items = task.load().items
    return type(task), [(item, task.strategies[0]) for item in items]


def bench_figures(outcomes: Iterable[Asked]) -> dict[str, float]:
    """The log's names of the outcomes of all processes: means with 95 % intervals over images, and counts."""
    found = sorted(outcomes, key=lambda one: one.number)
    figures: dict[str, float] = {"eval_questions": len(found)}
    answered = [(one.answer, one.image) for one in found if one.answer is not None]
    located = [(one.iou, one.image) for one in found if one.iou is not None]
    figures |= _mean("eval_answers", answered)
    figures |= _mean("eval_box", [(float(iou >= OVERLAPS), image) for iou, image in located])
    figures |= {"eval_iou": float(np.mean([iou for iou, _ in located]))} if located else {}
    counts = {
        "eval_failed": sum(one.failed for one in found),
        "eval_unread": sum(one.unread for one in found),
    }
    return figures | {name: float(count) for name, count in counts.items() if count}


def _mean(name: str, values: Sequence[tuple[float, str]]) -> dict[str, float]:
    if not values:
        return {}
    numbers = np.array([value for value, _ in values])
    figures = {name: float(numbers.mean()), f"{name}_of": float(len(values))}
    interval = mean_interval([ClusterSample(numbers, tuple(image for _, image in values))])
    return figures | ({f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {})
