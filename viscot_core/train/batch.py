"""How a global batch is split over processes. The global batch is the invariant; the rest follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from viscot_core.errors import RecipeError
from viscot_core.train.schema import StageSpec


@dataclass(frozen=True, slots=True)
class Split:
    """``per_device x accumulation x processes`` samples make one optimizer step."""

    per_device: int
    accumulation: int
    processes: int

    @property
    def total(self) -> int:
        """Samples per optimizer step."""
        return self.per_device * self.accumulation * self.processes


def split_batch(stage: StageSpec, processes: int, fits: Callable[[int], bool]) -> Split:
    """The split of ``stage``'s global batch; the largest per-device batch that ``fits`` where none is given.

    ``RecipeError`` with the nearest possible ones where there is no exact split.
    """
    where, total = f"stages.{stage.kind}", stage.global_batch_size
    if total % processes:
        below, above = total // processes * processes, (total // processes + 1) * processes
        batches = " or ".join(str(b) for b in (below, above) if b)
        counts = " or ".join(str(n) for n in _around(_divisors(total), processes))
        raise RecipeError(
            f"{where}.global_batch_size {total} does not split over {processes} processes; "
            f"use a batch of {batches}, or {counts} processes."
        )
    local = total // processes
    options = _divisors(local)
    if stage.per_device_batch_size:
        per_device = stage.per_device_batch_size
        if per_device not in options:
            nearest = " or ".join(map(str, _around(options, per_device)))
            raise RecipeError(
                f"{where}.per_device_batch_size {per_device} does not divide the {local} samples each of "
                f"{processes} processes takes of {total}; use {nearest}."
            )
    else:
        per_device = max((size for size in options if fits(size)), default=0)
        if not per_device:
            raise RecipeError(
                f"{where}: not even one sample fits in a process's memory (estimate); use more GPUs, "
                f"--set {where}.zero_stage=3, --set {where}.offload=optimizer, or --lora 128."
            )
    return Split(per_device, local // per_device, processes)


def steps_of(stage: StageSpec, rows: int) -> int:
    """Optimizer steps of ``stage`` where an epoch holds ``rows``: the last step of an epoch is filled up."""
    epoch = math.ceil(rows / stage.global_batch_size)
    return stage.max_steps or math.ceil(epoch * (stage.epochs or 1.0))


def _divisors(total: int) -> list[int]:
    return [d for d in range(1, total + 1) if total % d == 0]


def _around(options: list[int], wanted: int) -> list[int]:
    below = [option for option in options if option < wanted][-1:]
    above = [option for option in options if option > wanted][:1]
    return below + above
