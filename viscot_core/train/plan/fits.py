"""What memory a recipe's last stage needs on usual machines, for `viscot recipes list`; no weights."""

from __future__ import annotations

from viscot_core.families.shapes import ModelShape
from viscot_core.train.plan import estimates
from viscot_core.train.plan.make_plan import FILLED
from viscot_core.train.plan.plan_types import Machine, with_recompute
from viscot_core.train.recipe.base_model import shape_of
from viscot_core.train.recipe.schema import LoraSpec, Recipe, StageSpec

MACHINES = {
    "1 x 24 GB": Machine(gpus=1, gpu_memory_gib=24),
    "1 x 80 GB": Machine(gpus=1, gpu_memory_gib=80),
    "8 x 80 GB": Machine(gpus=8, gpu_memory_gib=80),
}
RANK = 64


def memory_of(recipe: Recipe) -> dict[str, dict[str, float | None]]:
    """GiB of a GPU, one sample at a time and all layers recomputed, ``full`` and with ``lora``, by machine.

    An estimate; None where it is more than the GPU has, or where the model's shape is not known here.
    """
    stage, shape = recipe.stages[-1], shape_of(recipe.model)
    kinds = {"full": stage.model_copy(update={"lora": None}), "lora": _with_adapters(stage)}
    return {
        name: {kind: _fitting(shape, own, machine) for kind, own in kinds.items()}
        for name, machine in MACHINES.items()
    }


def _with_adapters(stage: StageSpec) -> StageSpec:
    train = tuple(part for part in stage.train if part != "vision_tower")
    return stage.model_copy(update={"lora": LoraSpec(rank=RANK, alpha=2 * RANK), "train": train})


def _fitting(shape: ModelShape | None, stage: StageSpec, machine: Machine) -> float | None:
    if shape is None or stage.kind in ("foundation", "pretrain"):
        return None
    needed = estimates.memory_gib(shape, with_recompute(stage, 1), 1, machine.processes)
    return round(needed, 1) if needed <= FILLED * machine.gpu_memory_gib else None
