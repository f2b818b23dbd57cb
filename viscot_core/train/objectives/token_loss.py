"""The cross-entropy of the tokens that are learned, and of no others.

The head runs at supervised positions only, and of their logits only a part at a time is held in fp32: for
16,000 tokens and 150,000 words a whole fp32 copy and its gradient would take 19 GB.
"""

from __future__ import annotations

from typing import Any

import torch

from viscot_core.data.encode import Batch
from viscot_core.families.inputs import IGNORE

CHUNK = 1 << 26
"""Logits that are held in fp32 at once: 256 MB."""


def with_targets(batch: Batch) -> Batch:
    """``batch`` with where logits are wanted (``said``) and which tokens they are to predict (``targets``).

    The logits at position t predict the label at t + 1. ``said`` is ``int64[n]``, positions of the only row,
    or ``bool[B, T]``; ``targets int64[n]`` follow it row by row. Found here, by the loader's worker, so that
    the device never has to say how many they are.
    """
    wanted = batch["labels"][:, 1:] != IGNORE
    targets = batch["labels"][:, 1:][wanted]
    if not len(targets):  # a batch of bad rows: its loss is 0, and still reaches every parameter
        wanted[0, 0] = True
        targets = batch["labels"][0, 1:2]
    said = torch.cat([wanted, wanted.new_zeros(len(wanted), 1)], 1)
    return {**batch, "said": said[0].nonzero()[:, 0] if len(said) == 1 else said, "targets": targets}


def summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the token losses, fp32: logits ``[n, V]``, targets ``int64[n]``, of which `IGNORE` count 0."""
    return losses_of(logits, targets).sum()


def losses_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each token, ``float32[n]``: logits ``[n, V]``, targets ``int64[n]``; `IGNORE` has 0."""
    found: torch.Tensor = _Losses.apply(logits, targets)
    return found


class _Losses(torch.autograd.Function):
    """-log softmax(logits)[target], a chunk of rows at a time; the gradient has the logits' own type."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        norms = torch.cat([part.float().logsumexp(-1) for part in logits.split(_rows(logits))])
        real = targets != IGNORE
        index = torch.where(real, targets, 0)
        own = logits.gather(1, index[:, None])[:, 0].float()
        ctx.save_for_backward(logits, index, norms, real)
        return (norms - own) * real

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, index, norms, real = ctx.saved_tensors
        scale = real * grads[0]
        out = torch.empty_like(logits)
        rows = _rows(logits)
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            # d loss / d logits = softmax - one at the target.
            found = (logits[part].float() - norms[part, None]).exp_()
            found.scatter_add_(1, index[part, None], -torch.ones_like(found[:, :1]))
            out[part] = found.mul_(scale[part, None])
        return out, None


def _rows(logits: torch.Tensor) -> int:
    return max(1, CHUNK // max(1, logits.shape[-1]))
