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
from viscot_core.train.objectives.token_loss import summed_loss, with_targets

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
        asked = {"input_ids", "attention_mask", "use_cache", "logits_to_keep"}
        assert set(batch) == asked, "labels are not the model's"
        kept = batch["logits_to_keep"]
        return SimpleNamespace(logits=batch["input_ids"][kept if kept.ndim == 2 else (slice(None), kept)])

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


@pytest.mark.parametrize("rows", [1, 3])
def test_the_head_runs_where_tokens_are_learned(
    rows: int, logits: torch.Tensor, labels: torch.Tensor
) -> None:
    batch = with_targets({"labels": labels[:rows]})
    said = batch["said"]
    kept = logits[:rows][said] if said.ndim == 2 else logits[0, said]
    assert len(kept) == len(batch["targets"]) == int((labels[:rows, 1:] != IGNORE).sum())
    wanted = token_losses(logits[:rows], labels[:rows]).sum()
    assert summed_loss(kept, batch["targets"]) == pytest.approx(float(wanted), rel=1e-6)


def test_a_batch_without_labels_has_a_loss_of_nothing() -> None:
    batch = with_targets({"labels": torch.full((1, 2), IGNORE)})
    logits = torch.randn(1, 5, requires_grad=True)
    loss = summed_loss(logits[batch["said"]], batch["targets"])
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_of_chunks_are_those_of_the_whole(
    kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viscot_core.train.objectives.token_loss.CHUNK", 3 * IDS)
    generator = torch.Generator().manual_seed(2)
    own = torch.randn(10, IDS, generator=generator).to(kind).requires_grad_()
    targets = torch.randint(0, IDS, (10,), generator=generator)
    targets[4] = IGNORE
    other = own.detach().clone().requires_grad_()
    found = summed_loss(own, targets)
    wanted = F.cross_entropy(other.float(), targets, ignore_index=IGNORE, reduction="sum")
    (3 * found).backward()
    (3 * wanted).backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert own.grad is not None and other.grad is not None and own.grad.dtype == kind
    assert torch.allclose(own.grad, other.grad, atol=1e-6 if kind == torch.float32 else 2e-2)
