"""Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300) of looks and answers.

    loss = - mean over attempts of the sum over turns of A * mean over the turn's tokens of log p

log p is of the distribution that the tokens were drawn from, at the attempts' temperature; with ``kl``, every
token that is learned adds its distance from the reference.

A is the attempt's reward minus its group's mean, over the group's standard deviation. Every step asks its
questions of the weights as they are and makes one update: the ratio of new to old probabilities is 1
everywhere, which is why none is computed and nothing is clipped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from viscot_core.data.encode import Batch
from viscot_core.data.sampler import filled
from viscot_core.errors import DataError
from viscot_core.runs.opening import open_items
from viscot_core.tasks.base import Item
from viscot_core.train.evaluation.questions import questions_of
from viscot_core.train.loop.mixture_dataset import EncodedRow
from viscot_core.train.objectives.attempts import (
    Attempting,
    Tried,
    advantages,
    dealt_out,
    seed_of,
    settings_of_attempts,
)
from viscot_core.train.objectives.base import StageRows, TrainStep
from viscot_core.train.objectives.reply_rows import Replies, TooLong, empty_row, reply_batch, summed_by_row
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import ReinforceSpec, StageSpec
from viscot_core.train.rewards.named import open_judges, weighted, without_spread

log = logging.getLogger(__name__)
IDLE_BATCHES = 10
Sum = tuple[float, float]
"""A sum, and how many things it is over."""


class QuestionRows(Dataset[int]):
    """The questions of a stage's files; a row is only its number, images are opened when it is asked."""

    def __init__(self, files: Sequence[Path], images: Path) -> None:
        found = [question for file in files for question in questions_of(file, images)]
        self.items: list[Item] = [item for item, strategy in found if strategy == "cot"]
        if not self.items:
            names = ", ".join(file.name for file in files)
            raise DataError(f"{names} has no row that asks for a box, so there is nothing to ask.")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> int:
        return index

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """A random order, whole optimizer steps long.

        A question that a step asks again has its number and that of all questions added, once for each time
        before: its attempts are others then, wherever in the step it stands.
        """
        generator = torch.Generator().manual_seed(seed)
        order = filled(torch.randperm(len(self), generator=generator).numpy(), split.total)
        # What fills up is the order itself, so a question comes again after len(self) others.
        again = np.arange(len(order)) % split.total // len(self)
        return order + len(self) * again

    def collate(self, rows: list[int]) -> Batch:
        """``rows``: the numbers of the questions; ``again``: how often the step asked each of them before."""
        again, numbers = zip(*(divmod(row, len(self)) for row in rows), strict=True)
        return {"rows": torch.tensor(numbers), "again": torch.tensor(again)}


@dataclass
class _Learned:
    """What is learned of a batch: rows, the advantage of each, and how many attempts there were."""

    rows: list[EncodedRow]
    advantages: list[float]
    attempts: int
    too_long: int = 0
    """Attempts that were left out, a turn of them being longer than the stage reads."""
    unrendered: int = 0
    """Attempts that were left out, a turn of them having no row."""


class Grpo(Replies):
    """The mean over the attempts of the global batch."""

    def __init__(self, run: Any, stage: StageSpec) -> None:
        super().__init__(run, stage)
        self._spec = stage.reinforce or ReinforceSpec()
        self._rewards = [weighted(name, weight) for name, weight in self._spec.rewards.items()]
        settings_of_attempts(run, run.processor_for(stage), self._spec)  # refuses before a step is made
        self._attempting: Attempting | None = None
        self._items: list[Item] = []
        self._idle = 0  # batches in a row that nothing was learned from

    def needs_reference(self) -> bool:
        return self._spec.kl > 0

    def open_rows(self) -> StageRows:
        rows = QuestionRows([self.run.root / name for name in self.stage.data_files], self.run.images)
        self._items = rows.items
        return rows

    def counts(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Nothing is known of a batch before its questions are asked: the loss is a mean over attempts."""
        return

    def loss(
        self, model: Any, batch: dict[str, torch.Tensor], step: TrainStep
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        numbers = batch["rows"].tolist()
        if self._attempting is None:
            open_judges(self._rewards)  # before anything is drawn
            self._attempting = Attempting(self.run, self.stage, self._spec, self._rewards)
        own = self.stage.seed
        seed = seed_of(self.run.recipe.seed if own is None else own, step.number)
        # Of a question alone: a step draws the same on any number of processes, in batches of any size.
        names = [seed_of(*name) for name in zip(numbers, batch["again"].tolist(), strict=True)]
        items = open_items([self._items[number] for number in numbers])
        groups = self._attempting.attempts(items, seed, names)
        figures = figures_of(groups, self._spec.group * len(numbers), [one.name for one in self._rewards])
        learned = self._learned(groups, [seed_of(seed, name) for name in names])
        limit = min(IDLE_BATCHES, step.of * step.batches)  # a run may be shorter
        self._warn_of_nothing(learned, limit, all_flat=figures["flat"][0] == figures["flat"][1] > 0)
        figures["too_long"] = (float(learned.too_long), 1.0)
        figures["unrendered"] = (float(learned.unrendered), 1.0)
        device = batch["rows"].device
        loss, figures["kl"] = self._policy_loss(model, learned, device)
        return loss / step.batches, {name: torch.tensor(two, device=device) for name, two in figures.items()}

    def _warn_of_nothing(self, learned: _Learned, limit: int, *, all_flat: bool) -> None:
        """One sentence where nothing was learned for ``limit`` batches in a row."""
        self._idle = 0 if learned.rows else self._idle + 1
        if self._idle != limit:
            return
        if all_flat:
            log.warning(
                "in %d batches all attempts at every question earned the same, so nothing is learned: give "
                "other rewards, a higher temperature or a larger group",
                limit,
            )
        else:
            log.warning(
                "in %d batches no attempt could be learned from; unknown, truncated, unasked, too_long and "
                "unrendered in the log say why",
                limit,
            )

    def _learned(self, groups: Sequence[Sequence[Tried]], seeds: Sequence[int]) -> _Learned:
        """Rows with their advantages; an attempt that is too long for the loss is left out whole, counted.

        ``seeds``: one for each group, of the order in which shuffled rewards are dealt.

        An attempt that the token limit cut stays in its group's mean and is not learned: its row would teach
        an end that was not said. One without an answer (an engine's error) earned nothing that is known.
        """
        assert self._attempting is not None
        found = _Learned([], [], sum(map(len, groups)))
        for group, seed in zip(groups, seeds, strict=True):
            totals = [tried.earned.total for tried in group]
            if self._spec.shuffle_rewards:
                totals = dealt_out(totals, seed)
            for tried, own in zip(group, advantages(totals, scaled=self._spec.scale_by_spread), strict=True):
                if own == 0 or tried.answer.truncated or tried.answer.error is not None:
                    continue
                try:
                    rows = self._attempting.rows(tried, len(found.rows))
                except TooLong:
                    found.too_long += 1
                    continue
                except DataError:
                    found.unrendered += 1
                    continue
                found.rows += rows
                found.advantages += [float(own)] * len(rows)
        return found

    def _policy_loss(self, model: Any, learned: _Learned, device: torch.device) -> tuple[torch.Tensor, Sum]:
        """The loss over a batch's rows, and the distance from the reference, of how many tokens."""
        assert self._attempting is not None
        processor = self._attempting.processor
        rows = learned.rows or [empty_row(processor)]
        batch = {key: value.to(device) for key, value in reply_batch(processor, rows).items()}
        heat = self._spec.temperature  # the tokens were drawn from this distribution
        logprobs, places = self.token_logprobs(model, batch, heat)
        if not learned.rows:  # nothing to learn: a loss of 0 that still reaches every parameter
            return logprobs.sum() * 0, (0.0, float(not self._spec.kl))
        weights = torch.tensor(learned.advantages, device=device, dtype=torch.float32)
        losses, distance = -weights[places] * logprobs, 0.0
        if self._spec.kl:
            with self.reference(model) as before:
                reference, _ = self.token_logprobs(before, batch, heat)
            # The estimator of Schulman's note that is never negative (k3); its gradient pulls back.
            ratio = reference - logprobs
            apart = ratio.exp() - ratio - 1
            losses, distance = losses + self._spec.kl * apart, float(apart.detach().sum())
        summed = summed_by_row(losses, places, len(rows))
        if self._spec.length_normalised:
            summed = summed / summed_by_row(torch.ones_like(losses), places, len(rows))
        return summed.sum() / max(1, learned.attempts), (distance, float(len(losses)))


def figures_of(groups: Sequence[Sequence[Tried]], asked: int, rewards: Sequence[str]) -> dict[str, Sum]:
    """What the log says of a batch: its totals and every reward, shares, looks and tokens.

    ``flat`` is the share of groups whose totals are all equal, ``unknown`` that of attempts without a total,
    ``unasked`` that of attempts that an unreadable image left out. The names are the same for every batch:
    processes add theirs up.
    """
    tried = [one for group in groups for one in group]
    totals = [[one.earned.total for one in group if one.earned.total is not None] for group in groups]
    known = [total for group in totals for total in group]
    figures: dict[str, Sum] = {"reward": (fsum(known), len(known))}
    for name in rewards:
        values = [value for one in tried if (value := one.earned.parts[name].value) is not None]
        figures[f"reward_{name}"] = (fsum(values), len(values))
    several = [group for group in totals if len(group) > 1]
    count = len(tried)
    return figures | {
        "flat": (without_spread(several), len(several)),
        "unknown": (sum(one.earned.total is None for one in tried), count),
        "unasked": (asked - count, asked),
        "truncated": (sum(one.answer.truncated for one in tried), count),
        "looks": (sum(len(one.answer.looks) for one in tried), count),
        "new_tokens": (sum(one.answer.tokens for one in tried), count),
    }
