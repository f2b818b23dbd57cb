"""What the log says of a loss besides its value: means over all that is known since the last line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class LossParts:
    """Adds up the parts of every batch, over batches, steps and processes.

    A part is a scalar, a batch's share of its step's value as the loss is one; or ``[2]``, a sum and how many
    things it is over. A batch that knows nothing of the second kind adds ``[0, 0]`` and no zero to the mean.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, parts: Mapping[str, torch.Tensor], batches: int) -> None:
        """The parts of one of a step's ``batches``; every batch of every process has the same names."""
        for name, value in parts.items():
            kept = value.detach().float()
            if not kept.dim():
                kept = torch.stack([kept, kept.new_tensor(1 / batches)])
            self._sums[name] = self._sums[name] + kept if name in self._sums else kept

    def take(self, accelerator: Any) -> dict[str, float]:
        """The means, and begin anew; a part that no batch of any process knows is left out.

        A collective call: every process must come here with the same parts in the same order.
        """
        if not self._sums:
            return {}
        sums = accelerator.reduce(torch.stack(list(self._sums.values())), reduction="sum").tolist()
        names, self._sums = list(self._sums), {}
        return {name: total / over for name, (total, over) in zip(names, sums, strict=True) if over}
