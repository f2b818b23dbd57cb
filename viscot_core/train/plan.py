"""What a recipe will do on given machines. Nothing here starts, writes or downloads anything.

plan = make_plan(load_recipe("13b-336"), Machine(gpus=8, gpu_memory_gib=80), run="runs/13b", data="DATA")
plan.stages[0].steps, plan.commands, plan.refusals
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError, RecipeError
from viscot_core.train import estimates
from viscot_core.train.batch import split_batch
from viscot_core.train.facts import Facts, facts_of
from viscot_core.train.schema import Recipe, StageSpec
from viscot_core.train.shapes import Shape, shape_of

PLAN_FILE = "plan.json"
RECIPE_FILE = "recipe.yaml"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """``nodes`` machines of ``gpus`` GPUs each; without GPUs, of ``cpu_processes`` processes each."""

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
    """One stage: what is exact first, then the estimates (None where the shape or the data is unknown)."""

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
    trained: dict[str, int]
    frozen: int | None
    tokens: float | None = None
    memory_gib: float | None = None
    hours: float | None = None
    checkpoint_gib: float | None = None
    loading_gib: float | None = None

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step."""
        return self.per_device_batch_size * self.accumulation * self.processes


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. ``refusals`` would stop it at second 0; ``warnings`` would not."""

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


def make_plan(
    recipe: Recipe,
    machine: Machine,
    *,
    run: str | Path,
    data: str | Path,
    images: str | Path | None = None,
    rendezvous: Rendezvous | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of ``recipe`` on ``machine``. `RecipeError` names every batch that cannot be split."""
    root = Path(data)
    shape = shape_of(recipe.model)
    stages: list[StagePlan] = []
    problems: list[str] = []
    for stage in recipe.stages:
        try:
            stages.append(_stage(stage, shape, machine, root))
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    refusals, warnings = _refusals(recipe, root), list[str]()
    for stage, planned in zip(recipe.stages, stages, strict=True):
        warnings += _warnings(stage, planned, machine)
        refusals += _empty_stage(stage, planned)
    return Plan(
        recipe=recipe.name,
        run=str(run),
        data=str(root),
        images=str(images or recipe.data.images or root),
        machine=machine,
        stages=tuple(stages),
        commands=commands(recipe, machine, run, rendezvous),
        notes=tuple(notes),
        warnings=tuple(warnings),
        refusals=tuple(refusals),
        disk_gib=_disk(recipe, stages, shape),
    )


def commands(
    recipe: Recipe, machine: Machine, run: str | Path, rendezvous: Rendezvous | None = None
) -> tuple[tuple[str, ...], ...]:
    """The exact command of each stage, as lists: paths with spaces need no quoting.

    One process without DeepSpeed runs the worker itself; all else goes through torchrun.
    """
    found: list[tuple[str, ...]] = []
    for stage in recipe.stages:
        worker = ("-m", "viscot_core.train.worker", "--run-folder", str(run), "--stage", stage.kind)
        if machine.processes == 1 and not machine.gpus and stage.zero_stage == 0 and not rendezvous:
            found.append((sys.executable, *worker))
        else:
            found.append(
                (sys.executable, "-m", "torch.distributed.run", *_torchrun(machine, run, rendezvous), *worker)
            )
    return tuple(found)


def _torchrun(machine: Machine, run: str | Path, rendezvous: Rendezvous | None) -> list[str]:
    argv = [f"--nproc_per_node={machine.local_processes}", f"--nnodes={machine.nodes}"]
    if rendezvous:
        argv += [f"--rdzv_backend={rendezvous.backend}", f"--rdzv_endpoint={rendezvous.endpoint}"]
        argv += [f"--rdzv_id={rendezvous.job}"]
        if rendezvous.node_rank is not None:
            argv += [f"--node_rank={rendezvous.node_rank}"]
        if rendezvous.options:
            argv += [f"--rdzv_conf={','.join(rendezvous.options)}"]
        if rendezvous.local_address:
            argv += [f"--local_addr={rendezvous.local_address}"]
    else:
        argv += ["--standalone"]  # picks a free port: a port in use is no error
    logs = Path(run) / "logs"
    return [
        *argv,
        f"--log_dir={logs}",
        "--redirects=3",
        "--tee=3",
        "--local_ranks_filter=0",
        "--max_restarts=0",
    ]


def _stage(stage: StageSpec, shape: Shape | None, machine: Machine, root: Path) -> StagePlan:
    def memory(per_device: int) -> float:
        return estimates.memory_gib(shape, stage, per_device, machine.processes) if shape else 0.0

    split = split_batch(stage, machine.processes, lambda size: memory(size) <= 0.92 * machine.memory_gib)
    facts = facts_of(root, stage.data_files)
    steps = stage.max_steps
    if steps is None and facts.rows is not None and stage.epochs is not None:
        steps = math.ceil(math.ceil(facts.rows / stage.global_batch_size) * stage.epochs)
    seen = steps * stage.global_batch_size if steps is not None else None
    tokens = _tokens(facts, shape, stage)
    hours = None
    if shape and seen is not None and tokens is not None and machine.gpus:
        pictures, gpus = facts.pictures or 1.0, machine.processes
        hours = estimates.hours(shape, stage, seen, tokens, pictures, gpus, machine.gpu_name)
    trained = shape.trained(stage) if shape else {}
    return StagePlan(
        kind=stage.kind,
        files=stage.data_files,
        samples=facts.rows,
        samples_from=facts.source,
        per_device_batch_size=split.per_device,
        accumulation=split.accumulation,
        processes=split.processes,
        steps=steps,
        warmup_steps=math.ceil(steps * stage.warmup_ratio) if steps is not None else None,
        checkpoints=math.ceil(steps / stage.save_steps) if steps is not None else None,
        trained={str(part): count for part, count in trained.items()},
        frozen=_frozen(shape, stage),
        tokens=seen * tokens if seen is not None and tokens is not None else None,
        memory_gib=memory(split.per_device) if shape else None,
        hours=hours,
        checkpoint_gib=estimates.checkpoint_gib(shape, stage) if shape else None,
        loading_gib=estimates.loading_gib(shape, stage, machine.local_processes) if shape else None,
    )


def _frozen(shape: Shape | None, stage: StageSpec) -> int | None:
    if shape is None:
        return None
    learning = sum(shape.parameters(part) for part in stage.train if not (part == "llm" and stage.lora))
    return shape.total - learning


def _tokens(facts: Facts, shape: Shape | None, stage: StageSpec) -> float | None:
    if facts.text_tokens is None or facts.pictures is None or shape is None:
        return None
    return min(facts.text_tokens + facts.pictures * shape.tower.tokens, float(stage.max_length))


def _disk(recipe: Recipe, stages: Sequence[StagePlan], shape: Shape | None) -> float | None:
    if shape is None:
        return None
    kept = 0.0
    for stage, planned in zip(recipe.stages, stages, strict=True):
        at_once = min(planned.checkpoints or 1, stage.keep_checkpoints + 1)  # one more while it is written
        kept += at_once * (planned.checkpoint_gib or 0.0) + 2 * shape.total / estimates.GIB
    return kept


def _refusals(recipe: Recipe, root: Path) -> list[str]:
    found = []
    for stage in recipe.stages:
        missing = [name for name in stage.data_files if not (root / name).exists()]
        if missing:
            what = ", ".join(missing)
            hint = f"`viscot data fetch --help` says how to get it, --data names another root than {root}"
            found.append(f"stages.{stage.kind}: {what} is not under the data root; {hint}.")
    for name in ("base_llm", "vision_tower", "projector", "checkpoint"):
        value = getattr(recipe.model, name)
        if value and value.startswith((".", "/", "~")) and not Path(value).expanduser().exists():
            found.append(f"model.{name}: {value} does not exist; give a folder, a file or a hub name.")
    return found


def _empty_stage(stage: StageSpec, planned: StagePlan) -> list[str]:
    if planned.steps == 0:
        return [
            f"stages.{stage.kind} would train nothing: it has 0 steps; its files hold {planned.samples} rows."
        ]
    return []


def _warnings(stage: StageSpec, planned: StagePlan, machine: Machine) -> list[str]:
    where, found = f"stages.{stage.kind}", []
    if planned.steps is not None and stage.save_steps > planned.steps:
        found.append(
            f"{where}.save_steps {stage.save_steps} exceeds the {planned.steps} steps: "
            "nothing is saved before the end"
        )
    if planned.memory_gib and planned.memory_gib > machine.memory_gib:
        found.append(
            f"{where}: {planned.memory_gib:.0f} GiB a process (estimate) exceed the "
            f"{machine.memory_gib:.0f} GiB there are"
        )
    if stage.zero_stage and machine.processes == 1 and stage.offload == "none":
        found.append(f"{where}.zero_stage {stage.zero_stage} divides nothing over a single process")
    if not machine.gpus and planned.trained and sum(planned.trained.values()) > 5e8:
        found.append(f"{where}: {sum(planned.trained.values()) / 1e9:.1f} B parameters on a CPU take months")
    return found
