"""When a stage is evaluated, and what follows: a line in the log, the best model kept, an early end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from viscot_core.errors import EngineError
from viscot_core.train import ranks
from viscot_core.train.evaluation import record
from viscot_core.train.evaluation.bench import Asked, TrainingBench, bench_figures
from viscot_core.train.evaluation.loss import HeldOutLoss, loss_figures
from viscot_core.train.evaluation.whole_weights import whole_weights
from viscot_core.train.recipe.schema import EvalSpec, StageSpec
from viscot_core.train.state.initial import Run

if TYPE_CHECKING:
    from viscot_core.train.loop.trainer import StageTrainer

log = logging.getLogger(__name__)
SaveBest = Callable[[Path], None]


class Evaluate(TrainerCallback):
    """Evaluates before the first step, every so many steps and after the last one, on all processes.

    ``save_best(folder)`` writes the model; it is called on every process. Evaluating draws no random number
    and changes no weight: the run learns what it would have learned without it.
    """

    def __init__(
        self, trainer: StageTrainer, run: Run, stage: StageSpec, out: Path, save_best: SaveBest
    ) -> None:
        assert stage.eval is not None
        self._trainer = trainer
        self._spec: EvalSpec = stage.eval
        self._run, self._out, self._save_best = run, out, save_best
        self._lines: list[dict[str, Any]] = []
        self._loss = (
            None if stage.eval.file is None else HeldOutLoss(run, stage, trainer.args.train_batch_size)
        )
        bench = TrainingBench(run, stage) if stage.eval.questions else None
        self._bench = bench if bench and bench.questions else None  # captions, say: only their loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        with ranks.first_alone():  # the others find nothing left to take out
            self._lines = record.continued(self._out, state.global_step)
        step = state.global_step
        if step % self._spec.steps == 0 and step not in [line["step"] for line in self._lines]:
            self._evaluate(state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = state.global_step
        # A run that was told to stop has seconds to save in; it is evaluated when it goes on.
        due = step % self._spec.steps == 0 and not self._trainer.left_early
        if due or step == state.max_steps:
            self._evaluate(state, control)

    def _evaluate(self, state: TrainerState, control: TrainerControl) -> None:
        begun = time.monotonic()
        figures = self._figures()
        line = {"step": state.global_step, **figures}
        self._lines.append(line)
        if ranks.rank() == 0:
            record.add(self._out, state.global_step, figures)
            log.info("step %d: %s", state.global_step, said(figures))
        wanted = control.should_log
        self._trainer.log(figures)
        control.should_log = wanted  # the line of the step's loss is still to come
        self._keep_best(state.global_step, figures)
        patience = self._spec.patience
        if patience and record.without_gain(self._lines, self._spec.best) >= patience:
            log.warning(
                "the %s did not get better in %d evaluations: the stage ends at step %d of %d",
                self._spec.best, patience, state.global_step, state.max_steps,
            )  # fmt: skip
            control.should_training_stop = True
        ranks.wait()
        self._trainer.meter.pause(time.monotonic() - begun)

    def _figures(self) -> dict[str, float]:
        """The same on every process."""
        model = self._run.model
        model.eval()
        try:
            figures = dict(self._of_loss()) if self._loss is not None else {}
            return figures | (self._of_bench(self._bench) if self._bench is not None else {})
        finally:
            model.train()

    def _of_loss(self) -> Mapping[str, float]:
        assert self._loss is not None
        trainer = self._trainer
        # ZeRO's engine places shares and types; under DDP the model itself is whole, and nothing waits.
        model = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
        device, autocast = trainer.args.device, trainer.accelerator.autocast()
        own = self._loss.measure(model, ranks.rank(), ranks.count(), device, autocast)
        return loss_figures(trainer.accelerator.reduce(own.to(device), reduction="sum").cpu())

    def _of_bench(self, bench: TrainingBench) -> dict[str, float]:
        trainer, outcomes, problem = self._trainer, list[Asked](), None
        with whole_weights(trainer.model_wrapped), trainer.accelerator.autocast(), torch.no_grad():
            try:
                outcomes = bench.ask(ranks.rank(), ranks.count())
            except EngineError as error:  # too little memory beside the optimizer: training itself goes on
                problem = str(error)
        shares = _gathered((outcomes, problem))
        problems = [said for _, said in shares if said is not None]
        if problems:
            log.warning("the benchmark was left out at this step: %s", problems[0])
            return {"eval_left_out": float(len(bench.questions))}
        return bench_figures(outcome for found, _ in shares for outcome in found)

    def _keep_best(self, step: int, figures: Mapping[str, float]) -> None:
        value = figures.get(record.FIGURES[self._spec.best])
        if value is None:
            return
        before = record.best_of(self._out)
        ranks.wait()  # every process has read it before the first one replaces it
        if before is not None and before.figure == self._spec.best and not before.beaten_by(value):
            return
        best = record.Best(step, self._spec.best, value)
        partial = self._out / f"{record.BEST}.partial"
        self._save_best(partial)
        if ranks.rank() == 0:
            record.put(self._out, best, partial)
        ranks.wait()


def _gathered(own: tuple[list[Asked], str | None]) -> list[tuple[list[Asked], str | None]]:
    """What every process found, in the order of the processes, on all of them."""
    if ranks.count() == 1:
        return [own]
    found: list[Any] = [None] * ranks.count()
    distributed.all_gather_object(found, own)
    return found


def said(figures: Mapping[str, float]) -> str:
    """An evaluation as one line for people."""
    words = []
    if "eval_loss" in figures:
        words.append(f"held-out loss {figures['eval_loss']:.4f} ({figures['eval_rows']:.0f} rows)")
    for name, text in (("eval_answers", "answers right"), ("eval_box", "boxes right")):
        if name in figures:
            low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
            interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
            words.append(f"{text} {figures[name]:.3f}{interval} of {figures[f'{name}_of']:.0f}")
    for name, text in (("eval_unread", "boxes unreadable"), ("eval_failed", "questions failed")):
        if name in figures:
            words.append(f"{figures[name]:.0f} {text}")
    return ", ".join(words) or "nothing was measured"
