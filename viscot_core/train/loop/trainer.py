"""The Hugging Face Trainer with viscot's parameter groups, order of rows, losses and saves."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from viscot_core.errors import DataError, ViscotError
from viscot_core.train.job import stopping
from viscot_core.train.loop.loss_parts import LossParts
from viscot_core.train.loop.throughput import Meter, StageLog
from viscot_core.train.objectives.base import Objective, StageRows, TrainStep
from viscot_core.train.state import checkpoints

log = logging.getLogger(__name__)

SaveModel = Callable[[torch.nn.Module, Path, Mapping[str, torch.Tensor] | None], None]
LoadModel = Callable[[torch.nn.Module, Path], None]


class StageTrainer(Trainer):
    """One stage's loop: ours are the loss, the groups, the order and how a checkpoint is written and read."""

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        objective: Objective,
        args: TrainingArguments,
        rows: StageRows,
        order: NDArray[np.int64],
        groups: Sequence[dict[str, Any]],
        save: SaveModel,
        load: LoadModel,
        log_file: Path,
        meter: Meter,
        files: Mapping[str, int] | None = None,
        allow_bad: int = 0,
        start: int = 0,
    ) -> None:
        """``start``: the step that ``model`` and ``order`` stand at already (`checkpoints.WeightsOnly`)."""
        self.objective, self.stage = objective, objective.stage
        self.order = order
        self._groups = list(groups)
        self.meter = meter
        self._save_model = save
        self._load_model = load
        self._files = dict(files or {})  # rows of each file, recorded in every checkpoint
        self._allow_bad = allow_bad
        self._folder = log_file.parent
        self._parts = LossParts()
        self._leave = LeaveAfterSaving()
        self._loader: DataLoader[Any] | None = None
        # First of all: the log counts from the step that it sets.
        at_start = [ContinueFrom(self, start)] if start else []
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=rows.collate,
            callbacks=[*at_start, StageLog(log_file, meter), self._leave],
        )
        self.remove_callback(PrinterCallback)  # `StageLog` prints instead
        # The objective divides by the tokens of the whole step. The Trainer's own division, by the number of
        # batches, would give a token of a short batch more weight than one of a long batch.
        self.loss_is_scaled_for_ga = True

    optimizer: torch.optim.Optimizer | None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            stage = self.stage
            self.add_callback(RecipeRates([group["lr"] for group in self._groups]))
            self.optimizer = torch.optim.AdamW(
                self._groups,
                betas=(stage.adam_beta1, stage.adam_beta2),
                eps=stage.adam_epsilon,
                fused=True,
            )
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = super().get_train_dataloader()
        # accelerate wraps the loader that starts the workers.
        inner = getattr(loader, "base_dataloader", loader)
        inner.worker_init_fn = partial(stopping.begin_loader_worker, inner.worker_init_fn)
        self._loader = inner
        return loader

    def end_loader(self) -> None:
        """End the loader's workers, also where training failed.

        They outlive the one SIGTERM that a process which ends sends them (`stopping.begin_loader_worker`),
        and it would wait for them for ever: a traceback, or any circle of references, keeps their loader.
        """
        workers = getattr(self._loader, "_iterator", None)  # kept there because they are persistent
        if workers is not None:
            workers._shutdown_workers()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return RunOrder(self.order)

    # -- the loss ---------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """The batches of one optimizer step, and the loss tokens of all of them on all processes.

        Batches are read ahead of the forward passes, because each loss is divided by the sum over all.
        """
        # `range` stands first: zip then ends without taking one batch too many from the iterator.
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = [found for batch in batches if (found := self.objective.counts(batch)) is not None]
        told = torch.tensor([float(stopping.told())], dtype=torch.float64)
        # One sum over all processes: each learns from it that any of them was told to stop.
        own = torch.cat([torch.stack(counts).sum(0), told] if counts else [told])
        *summed, any_told = self.accelerator.reduce(own.to(device), reduction="sum").tolist()
        self._leave.wanted |= any_told > 0
        if not counts:
            return batches, None
        loss_tokens, tokens, padded_tokens, bad = summed
        self.meter.add(tokens, padded_tokens, int(bad))
        if self.meter.bad > self._allow_bad:
            self._too_many_bad(batches)
        # A step of bad rows only has no loss token: its loss is 0, not 0 / 0.
        return batches, torch.tensor(max(loss_tokens, 1e-6), device=device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        step = TrainStep(
            num_items_in_batch,
            self.accelerator.num_processes,
            self.current_gradient_accumulation_steps,
            self.state.global_step,
            self.state.max_steps,
        )
        loss, parts = self.objective.loss(model, inputs, step)
        self._parts.add(parts, step.batches)
        self._require_finite(loss, "loss", inputs)
        return (loss, {}) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        if (
            found is not None and self.stage.precision != "fp16"
        ):  # fp16: an overflow only lowers the loss scale
            self._require_finite(torch.as_tensor(found), "gradient", {})
        return found

    def _require_finite(self, value: torch.Tensor, what: str, inputs: Mapping[str, Any]) -> None:
        """Stop before the optimizer step where a value is not finite, and record the rows of the batch."""
        if torch.isfinite(value).all():
            return
        step = self.state.global_step
        rows = inputs["rows"].tolist() if "rows" in inputs else []
        place = self._folder / f"nonfinite-rank{self.args.process_index}.json"
        place.write_text(json.dumps({"step": step, "what": what, "rows": rows}))
        # Weights that give this by themselves would give it again, whatever the learning rate.
        aside = checkpoints.set_aside(Path(str(self.args.output_dir)) / f"checkpoint-{step}")
        raise ViscotError(
            f"The {what} became {float(value.detach())} at step {step}; {place} names the batch. "
            + (f"The checkpoint of that step is no use and was renamed to {aside.name}. " if aside else "")
            + f"Lower stages.{self.stage.kind}.learning_rate (--set) and continue from the last good "
            "checkpoint with --resume."
        )

    def require_finite_weights(self) -> None:
        """`ViscotError` on all processes where a trained weight is not finite: none is written."""
        shares = [getattr(p, "ds_tensor", p.data) for p in self.model.parameters() if p.requires_grad]
        wrong = torch.stack([(~torch.isfinite(share)).any().to(self.args.device) for share in shares])
        found = self.accelerator.reduce(wrong.sum().double().reshape(1), reduction="sum")
        if found.item():
            raise ViscotError(
                f"Weights became infinite or not a number by step {self.state.global_step} and were not "
                f"written. Lower stages.{self.stage.kind}.learning_rate (--set) and continue from the last "
                "checkpoint with --resume."
            )

    def _too_many_bad(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        rows = [row for batch in batches for row in batch["rows"].tolist()]
        reasons = []
        # A batch carries no reasons: its rows are read again to find them.
        for row in rows:
            reason = getattr(self.train_dataset[row], "reason", None)
            reasons += [reason] if reason else []
        first = reasons[0] if reasons else "a row of another rank"
        raise DataError(
            f"{self.meter.bad} rows cannot be learned from and {self._allow_bad} are allowed; the last: "
            f"{first} Correct them in place (no file may gain or lose rows) or give --allow-bad N, then "
            "--resume."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called on every process; the line of a step also has the parts of its loss."""
        if "loss" in logs:
            logs = {**logs, **self._parts.take(self.accelerator)}
        super().log(logs, start_time)

    # -- checkpoints ------------------------------------------------------------------------------------

    @property
    def left_early(self) -> bool:
        """Whether the run was told to stop and saves after this step, with steps left to do."""
        return self._leave.wanted and self.state.global_step < self.state.max_steps

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        self.require_finite_weights()
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            checkpoints.mark_started(folder)
        with checkpoints.naming_a_full_disk(folder.parent):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every rank's random state and optimizer shard is written
        if self.args.should_save:
            record = checkpoints.CheckpointRecord(
                self.state.global_step,
                self.accelerator.num_processes,
                self.stage.zero_stage,
                self._files,
                self.meter.bad,
                finite=True,
            )
            checkpoints.mark_complete(folder, record)
            checkpoints.retain(folder.parent, self.stage.keep_checkpoints)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self._save_model(
            self.accelerator.unwrap_model(self.model, keep_torch_compile=False), folder, state_dict
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers' own way reads a multimodal checkpoint with strict=False and silently restores no LLM.
        self._load_model(model or self.model, Path(resume_from_checkpoint))


class RunOrder(Sampler[int]):
    """The rows of the whole run in order; when it resumes, the Trainer skips those that were read."""

    def __init__(self, order: NDArray[np.int64]) -> None:
        self._order = order

    def __iter__(self) -> Iterator[int]:
        return map(int, self._order)  # one at a time: a list of 2.4 million takes 100 MB on every rank

    def __len__(self) -> int:
        return len(self._order)


class ContinueFrom(TrainerCallback):
    """Start at ``step`` of the schedule, with weights that are loaded already (`checkpoints.WeightsOnly`)."""

    def __init__(self, trainer: StageTrainer, step: int) -> None:
        self._trainer, self._step = trainer, step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.global_step = self._step
        self._trainer._globalstep_last_logged = self._step  # the next logged mean is over this run's steps
        with warnings.catch_warnings(
            action="ignore"
        ):  # torch warns of a schedule that moves before the optimizer
            for _ in range(self._step):
                kwargs["lr_scheduler"].step()


class LeaveAfterSaving(TrainerCallback):
    """Where ``wanted``, save after the step and end the training."""

    wanted = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_save = control.should_save or self.wanted

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Not before: a checkpoint keeps this flag, and a resumed run would end at once.
        control.should_training_stop = control.should_training_stop or self.wanted


class RecipeRates(TrainerCallback):
    """Use the recipe's learning rates (one per optimizer group) and intervals, not those of a checkpoint.

    It keeps no reference to the trainer: the circle would keep its weights in memory after the stage.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = list(rates)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.save_steps, state.logging_steps = args.save_steps, args.logging_steps
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
        # The log shows this value until the schedule's next step.
        schedule._last_lr = [group["lr"] for group in groups]
