"""Supervised fine-tuning: the cross-entropy of the assistant's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from viscot_core.families.inputs import IGNORE
from viscot_core.train.loop.layout import wanted_layout
from viscot_core.train.loop.mixture_dataset import MixtureDataset
from viscot_core.train.objectives.base import Objective, StageRows, TrainStep
from viscot_core.train.objectives.token_loss import summed_loss, with_targets
from viscot_core.train.objectives.varlen import one_row
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.state.initial import Run


class Sft(Objective):
    """The mean over all supervised tokens of the global batch, however that is split or packed."""

    def __init__(self, run: Run, stage: StageSpec) -> None:
        super().__init__(run, stage)
        self._text_rows = run.text_rows

    def open_rows(self) -> StageRows:
        run, stage = self.run, self.stage
        return MixtureDataset(
            [run.root / name for name in stage.data_files],
            run.images,
            run.processor_for(stage),
            stage,
            legacy_crop=run.recipe.data.legacy_crop,
            layout=wanted_layout(run.training, stage, run.recipe.model),
        )

    def loss_tokens(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Supervised tokens of a batch, a scalar; a row's first token has no loss: nothing predicts it."""
        return (batch["labels"][:, 1:] != IGNORE).sum()

    def counts(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        real = batch["tokens"] if "tokens" in batch else batch["attention_mask"].sum()
        padded = torch.tensor(batch["labels"].numel())
        bad = batch.get("bad", torch.tensor(0))
        return torch.stack([t.double().cpu() for t in (self.loss_tokens(batch), real, padded, bad)])

    def loss(
        self, model: Any, batch: dict[str, torch.Tensor], step: TrainStep
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if "said" not in batch:
            batch = with_targets(batch)
        logits = self.text_logits(self.forward(model, batch, logits_to_keep=batch["said"]))
        return share_of(summed_loss(logits.flatten(0, -2), batch["targets"]), step), {}

    def forward(self, model: Any, batch: dict[str, torch.Tensor], **asked: Any) -> Any:
        """The model's output for a batch; the batch also has entries that are not for the model."""
        known = {key: batch[key] for key in self.run.training.model_inputs if key in batch}
        # With a cache, the samples of a packed row would see each other, and nothing would say so.
        with one_row(batch):
            return model(**known, use_cache=False, **asked)

    def text_logits(self, out: Any) -> torch.Tensor:
        """``[B, T, text rows]`` of an output's ``[B, T, V]``.

        Ids from ``text_rows`` on (the image token, padding) are never generated: they take no part in the
        softmax, as in a base model that has no such rows.
        """
        logits: torch.Tensor = out.logits[..., : self._text_rows]
        return logits


def share_of(total: torch.Tensor, step: TrainStep) -> torch.Tensor:
    """The sum of a batch's token losses, scaled so that all shares add up to the mean over the global batch.

    With N loss tokens in the global batch and P processes a share is ``total * P / N``. DDP and ZeRO average
    gradients over processes, accumulation adds them: the result is sum(total * P / N) / P = sum(total) / N,
    the mean over all tokens, however many of them each batch holds.
    """
    assert step.loss_tokens is not None
    return total * (step.processes / step.loss_tokens)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """fp32 losses, 0 where unsupervised: logits ``[B, T, V]``, labels ``[B, T]`` -> ``[B * (T-1)]``.

    The logits at position t predict the label at t + 1. In a packed row the first label of every sample is
    masked, so that none is predicted from the sample before it.
    """
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="none"
    )
