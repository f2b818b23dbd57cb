"""Attention over one row of many samples, each of which sees itself only: no padding, no mask.

torch's own kernel for samples of different lengths where there is one (FlashAttention, on a GPU in 16 bit);
elsewhere one call of its usual attention a sample. transformers finds it by the name `VARLEN`; the samples'
borders come with the batch (``cu_seq_lens_q``), through the model's own keyword arguments. Without borders
(answering, evaluation) it is transformers' ``sdpa``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

VARLEN = "viscot_varlen"


@dataclass(frozen=True)
class _Kernel:
    run: Callable[..., torch.Tensor]
    options: dict[str, Any]
    scales: bool
    """Whether it takes the factor of the scores."""


_kernel: _Kernel | None = None
"""torch's kernel, looked up once: a compiled layer cannot look at it again."""
_packed = False
"""Whether the forward pass that runs is of one row of samples: then no mask is made."""


@contextmanager
def one_row(batch: dict[str, Any]) -> Iterator[None]:
    """Around the forward pass of a batch: its mask is left out where the batch says the samples' borders."""
    global _packed
    before, _packed = _packed, "cu_seq_lens_q" in batch
    try:
        yield
    finally:
        _packed = before


def register() -> None:
    """Make `VARLEN` known to transformers."""
    global _kernel
    _kernel = _kernel_here()
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(VARLEN, attention)
    AttentionMaskInterface.register(VARLEN, _mask)


def _mask(*arguments: Any, **named: Any) -> Any:
    from transformers.masking_utils import sdpa_mask

    return None if _packed else sdpa_mask(*arguments, **named)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    dropout: float = 0.0,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """``[1, heads, tokens, dim]`` (fewer key heads may be) -> ``[1, tokens, heads, dim]``."""
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **named
        )
    if query.is_cuda and (query.dtype.itemsize == 2 or torch.is_autocast_enabled("cuda")):
        return _on_gpu(query, key, value, scaling, cu_seq_lens_q, max_length_q), None
    return _one_by_one(query, key, value, scaling, cu_seq_lens_q), None


@torch.compiler.disable
def _one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, ends: torch.Tensor
) -> torch.Tensor:
    """Not compiled: it reads the lengths, and would be compiled anew for each number of samples."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    lengths = ends.diff().tolist()
    # Split, not sliced: the gradient of a slice is as large as the whole row, once for each sample.
    samples = zip(*(t.split(lengths, 2) for t in (query, key, value)), strict=True)
    parts = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling) for q, k, v in samples]
    return torch.cat(parts, 2).transpose(1, 2)


def _on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    ends: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    # Under autocast the rotary positions may have made q and k fp32 again.
    kind = query.dtype if query.dtype.itemsize == 2 else torch.get_autocast_dtype("cuda")
    assert _kernel is not None  # `register` came first
    options = _kernel.options
    if query.shape[1] != key.shape[1] and "enable_gqa" not in options:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    q, k, v = (t[0].transpose(0, 1).to(kind) for t in (query, key, value))
    # Some versions take no scale: q then carries it, beside the kernel's own 1 / sqrt(dim).
    if scaling is not None and not _kernel.scales:
        q = q * (scaling * q.shape[-1] ** 0.5)
    elif scaling is not None:
        options = {**options, "scale": scaling}
    out: torch.Tensor = _kernel.run(q, k, v, ends, ends, longest, longest, **options)
    return out[None]


def _kernel_here() -> _Kernel | None:
    """torch's kernel, and what its version calls "causal" and "fewer key heads"; None where it has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    more = {"enable_gqa": True} if "enable_gqa" in known else {}
    return _Kernel(varlen_attn, causal | more, "scale" in known)


def runs_here() -> bool:
    """Whether this machine's device has attention over samples of different lengths: the CPU always has."""
    if not torch.cuda.is_available():
        return True
    if _kernel_here() is None:
        return False
    return torch.cuda.get_device_capability()[0] >= 8  # FlashAttention needs Ampere
