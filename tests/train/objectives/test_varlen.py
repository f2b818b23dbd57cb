"""Attention over one row of samples: each sees itself only, and its gradient costs no more than that."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from viscot_core.train.objectives.varlen import attention

LENGTHS, HEADS, DIM = (5, 1, 9, 3), 4, 8


def row(heads: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(1, heads, sum(LENGTHS), DIM, generator=torch.Generator().manual_seed(seed))
    return drawn.requires_grad_()


@pytest.mark.parametrize("key_heads", [HEADS, 2])
def test_values_and_gradients_are_those_of_samples_alone(key_heads: int) -> None:
    q, k, v = row(HEADS, 0), row(key_heads, 1), row(key_heads, 2)
    ends = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    out, _ = attention(SimpleNamespace(), q, k, v, None, cu_seq_lens_q=ends, max_length_q=max(LENGTHS))
    wanted = torch.cat(
        [
            F.scaled_dot_product_attention(
                q[:, :, a:z], k[:, :, a:z], v[:, :, a:z], is_causal=True, enable_gqa=True
            )
            for a, z in pairwise(ends.tolist())
        ],
        2,
    ).transpose(1, 2)
    torch.testing.assert_close(out, wanted)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad((out * weights).sum(), (q, k, v))
    torch.testing.assert_close(found, torch.autograd.grad((wanted * weights).sum(), (q, k, v)))


def test_no_gradient_is_as_long_as_the_row_for_each_sample() -> None:
    q, k, v = row(HEADS, 0), row(HEADS, 1), row(HEADS, 2)
    ends = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    out, _ = attention(SimpleNamespace(), q, k, v, None, cu_seq_lens_q=ends, max_length_q=max(LENGTHS))
    left, names = [out.grad_fn], set()
    while left:
        node = left.pop()
        if node is not None:
            names.add(node.name())
            left += [before for before, _ in node.next_functions]
    assert not {name for name in names if name.startswith("Slice")}, "each would fill the row with zeros"
