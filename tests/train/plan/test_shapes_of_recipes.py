"""Chat recipes can be planned without a download: their published shapes and the memory they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscot_core.families.generic.shapes import PUBLISHED
from viscot_core.train.plan.make_plan import make_plan
from viscot_core.train.plan.plan_types import Machine
from viscot_core.train.recipe.base_model import shape_of
from viscot_core.train.recipe.load import load_recipe

# Parameters of the published models, in billions, as transformers counts them from their configs.
TOTALS = {
    "qwen2.5-vl-3b": 3.755, "qwen2.5-vl-7b": 8.292, "qwen3-vl-4b": 4.438, "qwen3-vl-8b": 8.767,
    "internvl3.5-8b": 8.528, "smolvlm-500m": 0.507,
}  # fmt: skip


@pytest.mark.parametrize("name", TOTALS)
def test_parameters(name: str) -> None:
    shape = shape_of(load_recipe(name).model)
    assert shape is not None and shape.total / 1e9 == pytest.approx(TOTALS[name], rel=0.002)
    assert load_recipe(name).model.checkpoint in PUBLISHED


def test_adapters_of_a_model_whose_heads_are_wider_than_it() -> None:
    llm = PUBLISHED["Qwen/Qwen3-VL-4B-Instruct"].llm
    # q: 2560 -> 4096, k and v: 2560 -> 1024, o: 4096 -> 2560; gate, up, down: 2560 and 9728.
    sides = 2 * (2560 + 4096) + 2 * (2560 + 1024) + 3 * (2560 + 9728)
    assert llm.adapter_parameters(64) == 36 * 64 * sides


@pytest.mark.parametrize(
    ("memory", "lora", "recomputed"), [(80, False, 1), (80, True, 0), (24, True, 1)], ids=["80", "lora", "24"]
)
def test_the_plan_recomputes_as_little_as_memory_allows(
    memory: int, lora: bool, recomputed: int, tmp_path: Path
) -> None:
    sets = ["stages.finetune.lora.rank=64", "stages.finetune.max_length=2048"] if lora else []
    machine = Machine(gpus=1, gpu_memory_gib=memory)
    plan = make_plan(load_recipe("qwen2.5-vl-3b", sets), machine, run=tmp_path, data=tmp_path)
    (stage,) = plan.stages
    assert stage.memory_gib is not None and stage.memory_gib <= 0.92 * memory
    assert stage.recompute == recomputed
