"""The loss of held-out rows: the mean over their supervised tokens, the same on any number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from viscot_core.train.evaluation.held_out import held_out_stage, spread
from viscot_core.train.objectives.base import Objective, TrainStep, objective_class
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.state.initial import Run


class HeldOutLoss:
    """Held-out rows, opened once for all evaluations of a stage; ``batch`` rows are read at a time."""

    def __init__(self, run: Run, stage: StageSpec, batch: int) -> None:
        assert stage.eval is not None
        run, stage = held_out_stage(run, stage)
        assert stage.eval is not None
        self.objective: Objective = objective_class(stage, run.recipe.model)(run, stage)
        self.rows = self.objective.open_rows()
        chosen = spread(len(self.rows), stage.eval.rows)
        self._batches = [chosen[at : at + batch] for at in range(0, len(chosen), batch)]

    def measure(
        self,
        model: Any,
        rank: int,
        processes: int,
        device: torch.device,
        autocast: AbstractContextManager[Any],
    ) -> torch.Tensor:
        """``float64[4]`` of this process: summed loss, its tokens, rows, and rows that cannot be read.

        Every process runs the same number of batches, as DDP and ZeRO want it; one that has none left runs
        its last again, which counts nothing.
        """
        own = self._batches[rank::processes] or self._batches[:1]
        total = torch.zeros(4, dtype=torch.float64)
        # Without gradients compiled layers would be compiled once more.
        with torch.no_grad(), autocast, torch.compiler.set_stance("force_eager"):
            for number in range(-(-len(self._batches) // processes)):
                found = self._of_batch(model, own[min(number, len(own) - 1)], device)
                if number * processes + rank < len(self._batches):
                    total += found
        return total

    def _of_batch(self, model: Any, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        batch = self.rows.collate([self.rows[row] for row in rows])
        counts = self.objective.counts(batch)
        assert counts is not None
        placed = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        # A step of one token on one process: the share of the loss is then its sum.
        step = TrainStep(torch.tensor(1.0, device=device), 1, 1, 0, 1)
        loss, _ = self.objective.loss(model, placed, step)
        tokens, bad = float(counts[0]), float(counts[3])
        return torch.tensor([float(loss) if tokens else 0.0, tokens, len(rows) - bad, bad]).double()


def loss_figures(summed: torch.Tensor) -> Mapping[str, float]:
    """The log's names of what ``measure`` counted, summed over all processes."""
    loss, tokens, rows, bad = summed.tolist()
    figures = {"eval_rows": rows, "eval_tokens": tokens}
    figures |= {"eval_loss": loss / tokens} if tokens else {}
    return figures | ({"eval_bad_rows": bad} if bad else {})
