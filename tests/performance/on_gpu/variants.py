"""How a training step is done: kinds of batches, what is recomputed, the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Variant:
    """How one training step is done."""

    rows: str  # padded, packed, one (as the trainer does it)
    recompute: int = 0  # every n-th layer; 0 none
    attention: str = "sdpa"  # or varlen
    head: str = "all"  # logits of all positions, or of the supervised
    compiled: bool = False

    @property
    def name(self) -> str:
        again = {0: "no recompute", 1: "recompute"}.get(self.recompute, f"recompute 1 of {self.recompute}")
        parts = [self.rows if self.rows != "one" else "one row", self.attention, again]
        parts += ["supervised head"] if self.head != "all" else []
        parts += ["compiled"] if self.compiled else []
        return ", ".join(parts)


OLD = (Variant("padded", 1), Variant("packed"))
"""As 0.1.0 trained, for comparison."""
SHIPPED = tuple(Variant("one", every, "varlen", "supervised") for every in (0, 2, 1))
"""What the trainer does now; the plan chooses which layers are recomputed."""
COMPILED = tuple(replace(variant, compiled=True) for variant in SHIPPED[:2])
"""The same steps with ``compile: true``."""


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
