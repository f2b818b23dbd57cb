"""Attention to a prefix that rows share and to their own tokens: one softmax, however it is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from viscot_core.engines.transformers import attention


def test_grouped_query_attention() -> None:
    """Fewer key heads than query heads, as newer language models have."""
    torch.manual_seed(0)
    heads, kv_heads, dim, images, each, p, s, t = 6, 2, 8, 2, 3, 5, 4, 7
    rows = images * each
    query = torch.randn(rows, heads, s, dim)
    key, value = torch.randn(rows, kv_heads, t, dim), torch.randn(rows, kv_heads, t, dim)
    before = (torch.randn(images, kv_heads, p, dim), torch.randn(images, kv_heads, p, dim))
    visible = torch.ones(s, t, dtype=torch.bool).tril(t - s)[None, None].repeat(rows, 1, 1, 1)
    visible[1, :, :, :2] = False
    mask = attention.as_bias(visible, query.dtype)
    assert mask.stride(2) % 8 == 0 and torch.equal(mask == 0, visible)
    keys = torch.cat([before[0].repeat_interleave(each, 0), key], 2).repeat_interleave(3, 1)
    scores = query @ keys.transpose(2, 3) * 0.3
    scores[:, :, :, p:].masked_fill_(~visible, float("-inf"))
    values = torch.cat([before[1].repeat_interleave(each, 0), value], 2).repeat_interleave(3, 1)
    right = (scores.softmax(-1) @ values).transpose(1, 2)
    # A model's query is a transposed view.
    seen = query.transpose(1, 2).contiguous().transpose(1, 2)
    for way in (attention.folded, attention.merged, attention.attend):
        assert torch.allclose(way(seen, key, value, *before, mask, 0.3), right, atol=1e-6)
        halves = [each.bfloat16() for each in (seen, key, value, *before, mask)]
        found = way(*halves, 0.3)
        assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), right, atol=0.03)


@pytest.mark.parametrize("way", [attention._on_cpu, attention._by_hand])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_tells_what_it_weighs(way: Callable[..., Any], dtype: torch.dtype) -> None:
    """With a kernel's help, and where there is none."""
    check_weighed(way, dtype, torch.device("cpu"))


def check_weighed(way: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> None:
    made = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 64, generator=made).to(device, dtype) for n in (5, 11, 11))
    bias = attention.as_bias(torch.ones(5, 11, dtype=torch.bool, device=device).tril(6)[None, None], dtype)
    for hidden in (None, bias.expand(2, 3, -1, -1), bias.contiguous().expand(2, 3, -1, -1)):
        scores = query.double() @ key.double().transpose(2, 3) * 0.3
        if hidden is not None:
            scores = scores + hidden.double()
        out, weight = way(query, key, value, hidden, 0.3)
        atol = 1e-5 if dtype == torch.float32 else 0.03
        assert torch.allclose(out.double(), scores.softmax(-1) @ value.double(), atol=atol)
        assert torch.allclose(weight.double(), scores.logsumexp(-1), atol=atol)
        assert weight.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpus_kernel_tells_what_it_weighs(dtype: torch.dtype) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    check_weighed(attention._on_cuda, dtype, device)
    assert attention._agrees(device, dtype, 128)


def test_kernels_that_do_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    agrees = partial(attention._agrees.__wrapped__, torch.device("cpu"), torch.float32, 64)

    def halved(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:  # a sum of powers of two
        out, weight = attention._on_cpu(*given)
        return out, weight / 0.6931

    def other(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        raise TypeError("no such argument")

    def full(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        raise torch.OutOfMemoryError("full")

    for kernel, right in ((attention._on_cpu, True), (halved, False), (other, False)):
        monkeypatch.setattr(attention, "_on_cuda", kernel)
        assert agrees() == right
    monkeypatch.setattr(attention, "_on_cuda", full)
    with pytest.raises(torch.OutOfMemoryError):  # which says nothing of the kernels
        agrees()


def test_a_query_that_sees_nothing_weighs_nothing() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    hidden = attention.as_bias(torch.tensor([[[[False] * 4] * 2 + [[True] * 4] * 2]]), torch.float32)
    out, weight = attention._by_hand(query, key, value, hidden.expand(1, 2, -1, -1), 0.3)
    assert not out[:, :, :2].any() and out[:, :, 2:].isfinite().all() and out[:, :, 2:].any()
    assert (weight[:, :, :2] == float("-inf")).all()
