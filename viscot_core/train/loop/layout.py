"""How the samples of a batch lie: padded, packed into some rows, or all in one row."""

from __future__ import annotations

from typing import Literal

from viscot_core.families.training import Training
from viscot_core.train.objectives import varlen
from viscot_core.train.plan.padding import is_packed
from viscot_core.train.recipe.schema import ModelSpec, StageSpec

Layout = Literal["padded", "packed", "one row"]


def wanted_layout(training: Training, stage: StageSpec, model: ModelSpec) -> Layout:
    """What the recipe asks for, or the best that this family and machine have where it says nothing."""
    if not is_packed(stage, model.attention, training.packs):
        return "padded"
    return "one row" if model.attention == "sdpa" and varlen.runs_here() else "packed"


def packing_fault(training: Training, stage: StageSpec, family: str) -> str | None:
    """A sentence where the recipe asks for packing that the family does not have."""
    if not stage.packing or training.packs:
        return None
    return (
        f"stages.{stage.kind}.packing: true - samples of one row would see each other in models of "
        f"the family {family}; leave it out."
    )
