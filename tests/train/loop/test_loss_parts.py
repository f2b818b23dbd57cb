"""The means that the log shows beside the loss."""

from __future__ import annotations

import pytest
import torch

from viscot_core.train.loop.loss_parts import LossParts


class OneProcess:
    """As accelerate reduces where there is one process."""

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return tensor


def test_a_batch_that_knows_nothing_is_no_zero_in_a_mean() -> None:
    parts = LossParts()
    parts.add({"margin": torch.tensor([6.0, 3.0]), "loss_words": torch.tensor(1.0)}, 2)
    parts.add({"margin": torch.tensor([0.0, 0.0]), "loss_words": torch.tensor(2.0)}, 2)
    parts.add({"margin": torch.tensor([2.0, 1.0]), "loss_words": torch.tensor(5.0)}, 1)
    found = parts.take(OneProcess())
    assert found == pytest.approx({"margin": 2.0, "loss_words": 4.0}), "of two steps: 1 + 2, and 5"
    assert parts.take(OneProcess()) == {}


def test_what_no_batch_knows_is_left_out() -> None:
    parts = LossParts()
    parts.add({"reward": torch.zeros(2), "flat": torch.tensor([1.0, 4.0])}, 1)
    assert parts.take(OneProcess()) == {"flat": 0.25}
