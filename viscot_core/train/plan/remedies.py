"""What makes a stage fit that does not: the remedies that help, as the estimator finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from viscot_core.families.shapes import ModelShape
from viscot_core.train.plan.estimates import memory_gib
from viscot_core.train.plan.plan_types import Machine
from viscot_core.train.recipe.schema import LoraSpec, StageSpec

_SHOWN = 5
_GPUS = (2, 4, 8, 16, 32)


def advice(shape: ModelShape, stage: StageSpec, machine: Machine, room: float) -> str:
    """What one sample needs, and which options bring it below ``room`` GiB, with their figures."""
    needed = memory_gib(shape, stage, 1, machine.processes)
    tried = [(option, memory_gib(shape, changed, 1, n)) for option, changed, n in _options(stage, machine)]
    fitting = [(option, gib) for option, gib in tried if gib <= room]
    digits = 1 if f"{needed:.1f}" != f"{room:.1f}" else 2  # never "it needs 22.1, and 22.1 may be used"
    where = f"stages.{stage.kind}: not even one sample fits: it needs {needed:.{digits}f} GiB a process"
    usable = f"{room:.{digits}f}"
    if fitting:
        named = ", ".join(f"{option} ({gib:.1f} GiB)" for option, gib in fitting[:_SHOWN])
        return f"{where}, and {usable} may be used. These fit (estimates): {named}."
    least = min(tried, key=lambda one: one[1], default=None)
    rest = f"; the nearest is {least[0]} ({least[1]:.1f} GiB)" if least and least[1] < needed else ""
    return (
        f"{where}, {usable} may be used, and no option makes it fit{rest}. It takes a GPU with "
        "more memory; --gpu-memory plans for one."
    )


def _options(stage: StageSpec, machine: Machine) -> Iterator[tuple[str, StageSpec, int]]:
    """Command line options, the stage with them, and the processes; the mildest change first."""
    count, here = machine.processes, f"--set stages.{stage.kind}."

    def changed(**fields: Any) -> StageSpec:
        return stage.model_copy(update=fields)

    quantised = stage.lora is not None and stage.lora.load_in is not None
    zero = stage.zero_stage or 2
    if not stage.gradient_checkpointing:
        yield f"{here}gradient_checkpointing=true", changed(gradient_checkpointing=True), count
    if count > 1 and stage.zero_stage < 3 and not quantised:
        yield f"{here}zero_stage=3", changed(zero_stage=3), count
    if machine.gpus and stage.offload == "none":
        also = "" if stage.zero_stage else f"{here}zero_stage={zero} "
        yield f"{also}{here}offload=optimizer", changed(zero_stage=zero, offload="optimizer"), count
    if machine.gpus and stage.offload != "all" and not quantised:
        also = "" if stage.zero_stage == 3 else f"{here}zero_stage=3 "
        yield f"{also}{here}offload=all", changed(zero_stage=3, offload="all"), count
    if stage.kind == "finetune" and "llm" in stage.train:
        yield from _adapters(stage, machine)
    for more in (n for n in _GPUS if machine.gpus and n > count and stage.global_batch_size % n == 0):
        yield f"--gpus {more}" if machine.nodes == 1 else f"{more} GPUs", stage, more


def _adapters(stage: StageSpec, machine: Machine) -> Iterator[tuple[str, StageSpec, int]]:
    own = stage.lora or LoraSpec(rank=128, alpha=256)
    frozen = {"train": tuple(part for part in stage.train if part != "vision_tower")}
    if stage.lora is None:
        yield "--lora 128", stage.model_copy(update={"lora": own, **frozen}), machine.processes
    if machine.gpus and own.load_in is None:
        for kind in ("8bit", "4bit"):
            lora = own.model_copy(update={"load_in": kind})
            fields = {"lora": lora, "zero_stage": 2, **frozen}
            yield f"--load-in {kind}", stage.model_copy(update=fields), machine.processes
