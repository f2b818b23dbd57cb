"""The loss is the mean over the global batch's tokens, on any number of processes and accumulated batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from viscot_core.families.inputs import IGNORE
from viscot_core.families.table import training_from_parts
from viscot_core.train.objectives.base import TrainStep
from viscot_core.train.objectives.sft import Sft, share_of, token_losses

ROWS, LENGTH, IDS, TEXT_IDS = 8, 12, 20, 17


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(ROWS, LENGTH, IDS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> torch.Tensor:
    """Rows with different numbers of supervised tokens."""
    drawn = torch.randint(0, TEXT_IDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    for row in range(ROWS):
        drawn[row, : row + 2] = IGNORE
    return drawn


def objective() -> Sft:
    run: Any = SimpleNamespace(text_rows=TEXT_IDS, training=training_from_parts())
    stage: Any = SimpleNamespace()
    return Sft(run, stage)


def test_a_token_is_predicted_from_the_one_before(logits: torch.Tensor, labels: torch.Tensor) -> None:
    found = token_losses(logits, labels).view(ROWS, LENGTH - 1)
    assert (found[labels[:, 1:] == IGNORE] == 0).all()
    one = F.cross_entropy(logits[3, 7], labels[3, 8])
    assert found[3, 7] == pytest.approx(float(one))


@pytest.mark.parametrize(("processes", "batches"), [(1, 1), (1, 4), (2, 2), (4, 1), (8, 1)])
def test_shares_add_up_to_the_mean(
    processes: int, batches: int, logits: torch.Tensor, labels: torch.Tensor
) -> None:
    sft = objective()
    counts = sft.counts({"labels": labels, "attention_mask": torch.ones_like(labels)})
    loss_tokens, real, padded, bad = counts.tolist()
    assert (real, padded, bad) == (ROWS * LENGTH, ROWS * LENGTH, 0)
    step = TrainStep(torch.tensor(loss_tokens), processes, batches, 0, 1)

    def model(**batch: torch.Tensor) -> Any:
        assert set(batch) == {"input_ids", "attention_mask", "use_cache"}, "labels are not the model's"
        return SimpleNamespace(logits=batch["input_ids"])

    pieces = []
    for own_logits, own_labels in zip(
        logits.chunk(processes * batches), labels.chunk(processes * batches), strict=True
    ):
        mask = torch.ones_like(own_labels)
        batch = {"input_ids": own_logits, "attention_mask": mask, "labels": own_labels}
        loss, parts = sft.loss(model, batch, step)
        assert not parts
        pieces.append(loss)
    found = torch.stack(pieces).view(processes, batches).sum(1).mean()  # accumulated, then averaged by DDP
    wanted = F.cross_entropy(
        logits[:, :-1, :TEXT_IDS].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE
    )
    assert found == pytest.approx(float(wanted), rel=1e-6)


def test_a_share_needs_the_count_of_the_step() -> None:
    with pytest.raises(AssertionError):
        share_of(torch.tensor(1.0), TrainStep(None, 1, 1, 0, 1))
