"""What a recipe will do on given machines. Nothing here starts, writes or downloads anything.

plan = make_plan(load_recipe("13b-336"), Machine(gpus=8, gpu_memory_gib=80), run="runs/13b", data="DATA")
plan.stages[0].steps, plan.commands, plan.refusals
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from viscot_core.errors import RecipeError
from viscot_core.files import expanded
from viscot_core.models import zoo
from viscot_core.train import estimates
from viscot_core.train.batch import split_batch, steps_of
from viscot_core.train.commands import commands
from viscot_core.train.facts import Facts, facts_of
from viscot_core.train.planned import Machine, Plan, Rendezvous, StagePlan
from viscot_core.train.schema import Recipe, StageSpec
from viscot_core.train.shapes import Shape, shape_of


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


def _stage(stage: StageSpec, shape: Shape | None, machine: Machine, root: Path) -> StagePlan:
    def memory(per_device: int) -> float:
        return estimates.memory_gib(shape, stage, per_device, machine.processes) if shape else 0.0

    split = split_batch(stage, machine.processes, lambda size: memory(size) <= 0.92 * machine.memory_gib)
    facts = facts_of(root, stage.data_files)
    steps = stage.max_steps if facts.rows is None else steps_of(stage, facts.rows)
    seen = steps * stage.global_batch_size if steps is not None else None
    tokens = _tokens(facts, shape, stage)
    hours = None
    if shape and seen is not None and tokens is not None and machine.gpus:
        images, gpus = facts.images or 1.0, machine.processes
        hours = estimates.hours(shape, stage, seen, tokens, images, gpus, machine.gpu_name)
    trained, loading = shape.trained(stage) if shape else {}, estimates.loading_gib
    saved = math.ceil(steps / stage.save_steps) if steps is not None else None
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
        checkpoints=saved,
        kept=None if saved is None else min(saved, stage.keep_checkpoints),
        trained={str(part): count for part, count in trained.items()},
        frozen=shape.frozen(stage) if shape else None,
        tokens=seen * tokens if seen is not None and tokens is not None else None,
        memory_gib=memory(split.per_device) if shape else None,
        hours=hours,
        checkpoint_gib=estimates.checkpoint_gib(shape, stage) if shape else None,
        loading_gib=loading(shape, stage, machine.local_processes, machine.processes) if shape else None,
    )


def _tokens(facts: Facts, shape: Shape | None, stage: StageSpec) -> float | None:
    if facts.text_tokens is None or facts.images is None or shape is None:
        return None
    return min(facts.text_tokens + facts.images * shape.tower.tokens, float(stage.max_length))


def _disk(recipe: Recipe, stages: Sequence[StagePlan], shape: Shape | None) -> float | None:
    if shape is None:
        return None
    kept = 0.0
    for stage, planned in zip(recipe.stages, stages, strict=True):
        at_once = min(planned.checkpoints or 1, stage.keep_checkpoints + 1)  # one more while it is written
        kept += at_once * (planned.checkpoint_gib or 0.0) + estimates.model_gib(shape, stage)
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
        if value and value.startswith((".", "/", "~")) and not expanded(value).exists():
            found.append(f"model.{name}: {value} does not exist; give a folder, a file or a hub name.")
        elif value and (sentence := zoo.absent(value)):
            found.append(f"model.{name}: {sentence}")
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
    if planned.samples is not None and planned.samples < planned.global_batch_size:
        found.append(
            f"{where}: {planned.samples} rows do not fill a batch of {planned.global_batch_size}, rows are "
            f"repeated; --set {where}.global_batch_size=N takes fewer"
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
