"""How a training step is done: kinds of batches, attention over one row of many samples, the optimizer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Variant:
    """How one training step is done."""

    rows: str  # padded, packed, one
    recompute: int = 0  # every n-th layer; 0 none
    attention: str = "sdpa"  # or varlen
    head: str = "all"  # logits of all positions, or of the supervised
    compiled: bool = False
    multiple: int = 1

    @property
    def name(self) -> str:
        again = {0: "no recompute", 1: "recompute"}.get(self.recompute, f"recompute 1 of {self.recompute}")
        parts = [self.rows if self.rows != "one" else "one row", self.attention, again]
        parts += ["supervised head"] if self.head != "all" else []
        parts += [f"compiled, x{self.multiple}"] if self.compiled else []
        return ", ".join(parts)


SHIPPED = (Variant("padded", 1), Variant("packed", 1), Variant("packed"))
BETTER = (
    Variant("one", attention="varlen"),
    Variant("one", attention="varlen", head="supervised"),
    Variant("one", 2, attention="varlen", head="supervised"),
    Variant("one", 1, attention="varlen", head="supervised"),
)
COMPILED = (Variant("one", attention="varlen", head="supervised", compiled=True, multiple=256),)


def varlen_kernel() -> tuple[str, Callable[..., Any]]:
    """torch's own attention over samples of different lengths, causal, and its name."""
    import torch

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:

        def older(q: Any, k: Any, v: Any, ends: Any, ends_k: Any, most: int, most_k: int) -> Any:
            flash = torch.ops.aten._flash_attention_forward
            return flash(q, k, v, ends, ends_k, most, most_k, 0.0, True, False)[0]

        return "aten._flash_attention_forward", older
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    return "torch.nn.attention.varlen", functools.partial(varlen_attn, **causal)


_VARLEN: list[Callable[..., Any]] = []  # set by use_varlen


def use_varlen() -> str:
    """Register ``gpu_varlen`` with transformers; the kernel's name."""
    from transformers import AttentionInterface

    AttentionInterface.register("gpu_varlen", varlen_attention)
    name, kernel = varlen_kernel()
    _VARLEN[:] = [kernel]
    return name


def varlen_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    cu_seq_lens_q: Any = None,
    max_length_q: int = 0,
    **_: Any,
) -> tuple[Any, None]:
    """Attention of one row of many samples, ``[1, heads, tokens, dim]``, each seeing itself only."""
    import torch

    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    if query.is_cuda:
        out = _VARLEN[0](q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    else:
        ends = cu_seq_lens_q.tolist()
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(t[:, :, a:z] for t in (query, key, value)), is_causal=True, scale=scaling
            )
            for a, z in pairwise(ends)
        ]
        out = torch.cat(parts, 2)[0].transpose(0, 1)
    return out[None], None


class Masters:
    """AdamW on fp32 copies of 16-bit weights, as DeepSpeed's bf16 optimizer keeps them; a group at a time, so
    that few fp32 gradients live at once. The rate is 0: every variant must then find the same loss.
    """

    def __init__(self, parameters: Sequence[Any], device: str) -> None:
        import torch

        self._groups: list[tuple[list[Any], list[Any], Any]] = []
        group: list[Any] = []
        for number, parameter in enumerate(parameters):
            group.append(parameter)
            if sum(p.numel() for p in group) > 2e8 or number == len(parameters) - 1:
                own = [p.detach().float().clone() for p in group]
                fused = device.startswith("cuda")
                self._groups.append(
                    (group, own, torch.optim.AdamW(own, lr=0.0, weight_decay=0.0, fused=fused))
                )
                group = []

    def step(self) -> None:
        import torch

        for group, own, optimizer in self._groups:
            for parameter, master in zip(group, own, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_copy_(group, own)
