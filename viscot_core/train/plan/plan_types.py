"""What a plan says: machines, figures of each stage, problems, the split of a batch; ``plan.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from viscot_core.errors import CheckpointError, RecipeError
from viscot_core.train.recipe.schema import StageSpec

PLAN_FILE = "plan.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """``nodes`` machines with ``gpus`` GPUs each, or with ``cpu_processes`` CPU processes each."""

    gpus: int = 0
    gpu_memory_gib: float = 80.0
    gpu_name: str = "A100"
    nodes: int = 1
    cpu_processes: int = 1
    ram_gib: float = 16.0

    @property
    def local_processes(self) -> int:
        """Processes on one machine."""
        return self.gpus or self.cpu_processes

    @property
    def processes(self) -> int:
        """Processes on all machines."""
        return self.nodes * self.local_processes

    @property
    def memory_gib(self) -> float:
        """Memory one process may use, GiB."""
        return self.gpu_memory_gib if self.gpus else self.ram_gib / self.cpu_processes


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where machines meet: ``host:port``; each machine runs the same command."""

    endpoint: str
    backend: str = "c10d"
    node_rank: int | None = None
    job: str = "viscot"
    options: tuple[str, ...] = ()
    local_address: str | None = None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: exact figures, then estimates (None where the shape or the data is unknown)."""

    kind: str
    files: tuple[str, ...]
    samples: int | None
    samples_from: str
    per_device_batch_size: int
    accumulation: int
    processes: int
    steps: int | None
    warmup_steps: int | None
    checkpoints: int | None
    kept: int | None
    trained: dict[str, int]
    frozen: int | None
    tokens: float | None = None
    memory_gib: float | None = None
    hours: float | None = None
    checkpoint_gib: float | None = None
    loading_gib: float | None = None
    recompute: int | None = None
    """Of how many layers one is recomputed in the backward pass; 0: none."""

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step."""
        return self.per_device_batch_size * self.accumulation * self.processes


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence: an ``error`` stops the run before it starts, a ``warning`` does not."""

    text: str
    severity: Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. ``refusals`` are the errors for which it does not start, ``warnings`` other problems."""

    recipe: str
    run: str
    data: str
    images: str
    machine: Machine
    stages: tuple[StagePlan, ...]
    commands: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    disk_gib: float | None = None
    format: int = field(default=FORMAT)

    def stage(self, kind: str) -> StagePlan:
        """The stage of that kind; KeyError if the run has none."""
        for stage in self.stages:
            if stage.kind == kind:
                return stage
        raise KeyError(kind)

    def to_json(self) -> str:
        """What `read_plan` reads back."""
        return json.dumps(asdict(self), indent=1)


def read_plan(run: str | Path) -> Plan:
    """The plan of a run folder; `CheckpointError` where there is none of this format."""
    path = Path(run) / PLAN_FILE
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        raw["machine"] = Machine(**raw["machine"])
        stages = [StagePlan(**{**stage, "files": tuple(stage["files"])}) for stage in raw["stages"]]
        raw["stages"] = tuple(stages)
        raw["commands"] = tuple(tuple(command) for command in raw["commands"])
        for key in ("notes", "warnings", "refusals"):
            raw[key] = tuple(raw[key])
        plan = Plan(**raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no plan of this version of viscot; start the run again.") from error
    if plan.format != FORMAT:
        raise CheckpointError(f"{path} is of format {plan.format}, not {FORMAT}; start the run again.")
    return plan


def with_recompute(stage: StageSpec, every: int) -> StageSpec:
    """``stage`` with one of ``every`` layers recomputed in the backward pass; 0: none."""
    return stage.model_copy(update={"gradient_checkpointing": every > 0, "recompute_every": max(every, 1)})


def recompute_of(stage: StageSpec) -> int:
    """Of how many layers ``stage`` recomputes one; 0: none."""
    return stage.recompute_every if stage.gradient_checkpointing else 0


# -- how a global batch is split ----------------------------------------------------------------------------


class DoesNotFitError(RecipeError):
    """Not even one sample fits in a process's memory."""


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
    """How ``stage``'s global batch is split: as the recipe says, else by the largest batch that ``fits``.

    Raises:
        RecipeError: there is no exact split; names the nearest possible ones.
        DoesNotFitError: not even a batch of one fits.
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
            raise DoesNotFitError(f"{where}: not even one sample fits in a process's memory (estimate).")
    return Split(per_device, local // per_device, processes)


def steps_of(stage: StageSpec, rows: int) -> int:
    """Optimizer steps of ``stage`` with ``rows`` in an epoch; the last step of an epoch is filled up."""
    epoch = math.ceil(rows / stage.global_batch_size)
    return stage.max_steps or math.ceil(epoch * (stage.epochs or 1.0))


def _divisors(total: int) -> list[int]:
    return [d for d in range(1, total + 1) if total % d == 0]


def _around(options: list[int], wanted: int) -> list[int]:
    below = [option for option in options if option < wanted][-1:]
    above = [option for option in options if option > wanted][:1]
    return below + above
