"""Attempts at questions by the model in training, through the rollout: what was said, and what it earned.

The engine stands over the weights in training, as while a stage is evaluated: nothing is written or loaded.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from viscot_core.conversation import Message
from viscot_core.data.encode import only_learned
from viscot_core.engines.base import Sampling
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import UsageError
from viscot_core.families.inputs import IGNORE
from viscot_core.families.table import family_of
from viscot_core.families.training import TrainingProcessor
from viscot_core.images.view import resized
from viscot_core.models.load import LoadedModel
from viscot_core.policies.base import Answer, Policy, Question, Step
from viscot_core.policies.dialects.known import DIALECTS, dialect
from viscot_core.policies.zoom_settings import ZoomSettings, dialect_for
from viscot_core.rollout import run as rollout
from viscot_core.runs.opening import LoadedItem
from viscot_core.tasks.base import Settings
from viscot_core.tasks.visual_cot.task import VisualCot
from viscot_core.train.loop.mixture_dataset import EncodedRow
from viscot_core.train.objectives.reply_rows import reply_row
from viscot_core.train.recipe.schema import ReinforceSpec, StageSpec
from viscot_core.train.rewards.attempt import attempt_of_answer
from viscot_core.train.rewards.named import Earned, Weighted, earn
from viscot_core.train.state.initial import Run, mixed_precision


@dataclass
class RecordedPolicy:
    """A policy for one question that keeps every step and what was said in it."""

    inner: Policy
    said: list[tuple[Step, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    def start(self, question: Question) -> Step:
        """As the policy within."""
        return self.inner.start(question)

    def next(self, step: Step, text: str) -> Step | Answer:
        """As the policy within; the step and its text are kept."""
        self.said.append((step, text))
        return self.inner.next(step, text)


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt: its steps with what was said, the answer, what it earned."""

    said: tuple[tuple[Step, str], ...]
    answer: Answer
    earned: Earned


EQUAL = 1e-9
"""Totals that are no further apart are the same."""


def seed_of(*parts: object) -> int:
    """A seed below 2**62 that depends on all parts and is the same in every process and after a resume."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 2


def settings_of_attempts(run: Run, processor: TrainingProcessor, spec: ReinforceSpec) -> Settings:
    """What the strategy of the attempts is told, as a run folder keeps it.

    Raises:
        UsageError: it is zoom, and nothing says how the model calls a zoom tool, or its tokens cannot.
    """
    boxes = processor.boxes
    settings: dict[str, Any] = {"box_format": boxes.name, "max_new_tokens": spec.max_new_tokens}
    if spec.strategy == "zoom":
        try:
            name = spec.dialect or dialect_for(run.recipe.model.checkpoint, boxes)
        except UsageError as error:
            raise UsageError(
                "Nothing says how this model calls a zoom tool; give stages.grpo.reinforce.dialect: "
                f"{', '.join(DIALECTS)}."
            ) from error
        require_tokens(processor, name)
        settings["zoom"] = ZoomSettings(name, spec.looks).record()
    return settings


def require_tokens(processor: TrainingProcessor, name: str) -> None:
    """Refuse a dialect whose calls the model's tokens cannot write: every attempt would fail, in silence.

    Raises:
        UsageError: a call does not come back from the tokenizer as it was.
    """
    call = dialect(name).call((0.125, 0.25, 0.5, 0.75), 0, 1)
    turns = (Message("user", "Where?", learned=False), Message("assistant", call))
    labels = only_learned(processor.render(turns, []), turns).labels
    back = processor.text([label for label in labels if label != IGNORE])
    if "".join(call.split()) not in "".join(back.split()):
        raise UsageError(
            f"This model has no tokens for calls of the dialect {name}: of {call!r} its tokenizer makes "
            f"{back!r}. Give another stages.grpo.reinforce.dialect: {', '.join(DIALECTS)}."
        )


class Attempting:
    """Asks a stage's questions, several times each, of the model as it is now."""

    def __init__(self, run: Run, stage: StageSpec, spec: ReinforceSpec, rewards: Sequence[Weighted]) -> None:
        self._run, self._stage, self._spec, self._rewards = run, stage, spec, rewards
        self.processor = run.processor_for(stage)
        self._strategy = VisualCot.all_strategies[spec.strategy]
        self._settings = settings_of_attempts(run, self.processor, spec)
        self._engine: LocalEngine | None = None

    def attempts(self, items: Sequence[LoadedItem], seed: int, own: Sequence[int]) -> list[list[Tried]]:
        """``spec.group`` attempts at each item, in order; an item whose image cannot be read has none.

        ``seed`` is that of the step, ``own`` a number for each item that no other item of the step has: what
        is drawn follows from both, and not from which items are asked together.

        Raises:
            EngineError: nothing can be generated.
        """
        policy = self._strategy.policy(self._settings)
        ready = [
            (item, item.view, number)
            for item, number in zip(items, own, strict=True)
            if item.view is not None
        ]
        questions = [self._strategy.question(one.item, view, self._settings) for one, view, _ in ready]
        group = self._spec.group
        policies = [RecordedPolicy(policy) for _ in questions for _ in range(group)]
        # Numbers of their own: with the same ones at every question, what one noise does would seem to pay.
        many = [
            replace(question, draw=seed_of(number, attempt))
            for question, (_, _, number) in zip(questions, ready, strict=True)
            for attempt in range(group)
        ]
        answers = self._ask(policies, many, Sampling(self._spec.temperature, seed=seed))
        found: dict[int, list[Tried]] = {}
        for place, (one, _, _) in enumerate(ready):
            part = slice(place * group, (place + 1) * group)
            found[id(one)] = self._scored(one, policies[part], answers[part])
        return [found.get(id(item), []) for item in items]

    def rows(self, tried: Tried, number: int) -> list[EncodedRow]:
        """One row for each turn of an attempt; raises as `reply_row` does."""
        rows = []
        for step, text in tried.said:
            before = [Message(m.role, m.text, learned=False) for m in step.messages]
            # As the engine shows them: a step of the loop has its images in their own sizes already.
            resize = None if self._strategy.loops else self.processor.boxes.resize
            images = [resized(view, resize).image for view in step.images]
            turns = [*before, Message("assistant", text)]
            rows.append(
                reply_row(
                    self.processor,
                    turns,
                    images,
                    number=number,
                    max_length=self._stage.max_length,
                    said=step.ids,
                )
            )
        return rows

    def _ask(
        self, policies: Sequence[RecordedPolicy], questions: Sequence[Question], sampling: Sampling
    ) -> list[Answer]:
        model = self._run.model
        trained = model.training
        model.eval()
        try:
            # A compiled model would be compiled for every length; an engine asks its model as it is opened.
            eager = torch.compiler.set_stance("force_eager")
            with torch.no_grad(), eager, mixed_precision(self._stage, model.device):
                engine = self._opened()
                engine.reset()
                try:
                    return rollout(list(policies), engine, questions, sampling=sampling)
                finally:
                    engine.reset()  # what it remembers of images is of these weights
        finally:
            model.train(trained)

    def _opened(self) -> LocalEngine:
        if self._engine is None:
            run, processor = self._run, self.processor
            family = run.base.family if run.base else family_of(run.model.config.to_dict())
            loaded = LoadedModel(run.model, family, processor, run.manifest(), run.folder, "in training")
            resize = None if self._strategy.loops else processor.boxes.resize
            self._engine = LocalEngine(loaded, batch_size=self._spec.batch, resize=resize)
        return self._engine

    def _scored(
        self, one: LoadedItem, policies: Sequence[RecordedPolicy], answers: Sequence[Answer]
    ) -> list[Tried]:
        item = one.item
        group = [
            attempt_of_answer(answer, item.question, reference=item.reference, box=item.box)
            for answer in answers
        ]
        earned = earn(self._rewards, group)
        return [
            Tried(tuple(policy.said), answer, own)
            for policy, answer, own in zip(policies, answers, earned, strict=True)
        ]


def advantages(totals: Sequence[float | None], *, scaled: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How much better than the group's mean each attempt is; 0 where its total is not known.

    ``scaled`` divides by the group's standard deviation (with 1e-4 for groups that hardly spread).
    """
    known = np.array([total is not None for total in totals])
    values = np.array([0.0 if total is None else total for total in totals])
    found = np.zeros(len(values))
    # Sums of rounded parts differ in their last bit: without a limit, its noise would become advantages.
    if known.sum() < 2 or np.ptp(values[known]) <= EQUAL:
        return found
    found[known] = values[known] - values[known].mean()
    return found / (values[known].std() + 1e-4) if scaled else found


def dealt_out(totals: Sequence[float | None], seed: int) -> list[float | None]:
    """A group's known totals in a random order, for a control: what is not known stays where it is.

    The advantage of an attempt is then 0 on average, whatever it did, at the spread that the group has.
    """
    known = [total for total in totals if total is not None]
    random.Random(seed).shuffle(known)
    left = iter(known)
    return [None if total is None else next(left) for total in totals]
