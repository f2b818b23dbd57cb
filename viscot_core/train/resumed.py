"""What a run that goes on does first: find its place in the schedule, take the recipe's learning rates."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from viscot_core.train.trainer import StageTrainer

log = logging.getLogger(__name__)


class GoOnFrom(TrainerCallback):
    """Begin at ``step`` of the schedule, with weights that were loaded before: see `checkpoints.Moved`."""

    def __init__(self, trainer: StageTrainer, step: int) -> None:
        self._trainer, self._step = trainer, step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.global_step = self._step
        self._trainer._globalstep_last_logged = self._step  # the next line's mean is over the steps made here
        with warnings.catch_warnings(action="ignore"):  # the schedule moves before the optimizer on purpose
            for _ in range(self._step):
                kwargs["lr_scheduler"].step()


class RecipeRates(TrainerCallback):
    """The recipe's learning rates (the optimizer groups', in order) count, also where a checkpoint brings
    those it was trained with. It holds no trainer, which would outlive its stage by the circle.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = list(rates)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        schedule = kwargs["lr_scheduler"]
        schedule = getattr(schedule, "scheduler", schedule)  # without accelerate's wrapper
        rates = self._rates
        if schedule.base_lrs == rates:
            return
        log.warning("learning rates change at step %d: %s -> %s", state.global_step, schedule.base_lrs, rates)
        schedule.base_lrs = list(rates)
        groups = schedule.optimizer.param_groups
        for group, rate, share in zip(groups, rates, schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * share(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in groups]
