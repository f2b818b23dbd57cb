"""Optimizer groups and row orders equal the reference's, but for the differences named here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_training import golden_recipe

from viscot_core.data.sampler import even_chunks, filled, length_order, modality_length_order
from viscot_core.families.llava.layouts import Layout, module_name
from viscot_core.families.table import training_from_parts
from viscot_core.train.loop.trainable import freeze_for, parameter_groups
from viscot_core.train.recipe.schema import StageSpec

TRAINING = training_from_parts()
EVERYTHING = ("projector", "llm", "vision_tower")
FREEZING = {
    "stage2_ft_true": EVERYTHING,
    "stage2_ft_false": ("projector", "llm"),
    "stage1_ft_false": ("projector",),
    "stage1_ft_true": ("projector",),
    "freeze_mm_mlp_adapter": ("llm", "vision_tower"),
}  # freeze_backbone trains lm_head without its language model: viscot has no such stage
RATES: dict[str, dict[str, float]] = {
    "plain": {},
    "plain_wd": {"weight_decay": 0.1},
    "mm_projector_lr": {"weight_decay": 0.1, "projector_lr": 1e-3},
    "vision_tower_lr": {"weight_decay": 0.1, "vision_tower_lr": 2e-6},
}
CLASS_EMBEDDING = "model.vision_tower.embeddings.class_embedding"


@pytest.fixture(scope="module")
def model(shared: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    from viscot_core.train.recipe.base_model import open_base

    found = open_base(golden_recipe(shared / "golden").model)
    with torch.device("meta"):
        return LlavaForConditionalGeneration(found.config)


@pytest.fixture(scope="module")
def setups(shared: Path) -> dict[str, Any]:
    return dict(json.loads((shared / "golden/golden_optimizer.json").read_text()))


def _stage(train: tuple[str, ...], **fields: float) -> StageSpec:
    raw = {"kind": "finetune", "train": train, "epochs": 1, "global_batch_size": 8, "learning_rate": 2e-5}
    return StageSpec.model_validate({**raw, **fields})


def _ours(model: Any, stage: StageSpec) -> dict[str, tuple[float, float]]:
    freeze_for(TRAINING, model, stage)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(TRAINING, model, stage)
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def _theirs(groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    found = {}
    for group in groups:
        for name in group["params"]:
            found[str(module_name(name, Layout.LLAVA))] = (group["lr"], group["weight_decay"])
    return found


@pytest.mark.parametrize("freezing", FREEZING)
@pytest.mark.parametrize("rates", RATES)
def test_groups(freezing: str, rates: str, model: Any, setups: dict[str, Any]) -> None:
    golden = setups[freezing]
    ours = _ours(model, _stage(FREEZING[freezing], **RATES[rates]))
    if "projector_lr" in RATES[rates] and "projector" not in FREEZING[freezing]:
        pytest.skip("a recipe refuses a rate for a frozen part")
    theirs = _theirs(golden["optimizer"][rates]["groups"])
    # The last layer and post_layernorm never get a gradient (UPSTREAM, fault 10): frozen here.
    for name in golden["requires_grad_but_no_gradient"]:
        theirs.pop(str(module_name(name, Layout.LLAVA)), None)
    if CLASS_EMBEDDING in theirs:  # a vector: no decay here
        theirs[CLASS_EMBEDDING] = (theirs[CLASS_EMBEDDING][0], 0.0)
    assert ours == theirs


def test_both_rates_count_where_the_reference_forgets_one(model: Any) -> None:
    ours = _ours(model, _stage(EVERYTHING, projector_lr=1e-3, vision_tower_lr=2e-6))
    assert ours["model.multi_modal_projector.linear_1.weight"][0] == 1e-3
    assert ours["model.vision_tower.embeddings.patch_embedding.weight"][0] == 2e-6


def test_layer_decay_counts_from_the_last_layer_that_is_read(model: Any) -> None:
    """The reference assumes 25 layers and leaves embeddings and norms untrained (UPSTREAM, fault 9)."""
    ours = _ours(model, _stage(EVERYTHING, vision_tower_lr=2e-5, vision_layer_decay=0.8))
    tower = "model.vision_tower."
    top, below = (ours[f"{tower}encoder.layers.{n}.mlp.fc1.weight"][0] for n in (1, 0))
    assert top == 2e-5 and below == pytest.approx(2e-5 * 0.8)
    assert ours[f"{tower}embeddings.patch_embedding.weight"][0] == pytest.approx(2e-5 * 0.64)
    assert ours[f"{tower}pre_layrnorm.weight"][0] == pytest.approx(2e-5 * 0.64)


def test_a_parameter_that_zero_3_has_divided_keeps_its_group() -> None:
    layer = torch.nn.Linear(4, 4)
    layer.weight.ds_shape = layer.weight.shape  # what DeepSpeed leaves on a parameter it has taken apart
    layer.weight.data = torch.empty(0)
    groups = parameter_groups(TRAINING, layer, _stage(EVERYTHING, weight_decay=0.1))
    assert {g["weight_decay"]: len(g["params"]) for g in groups} == {0.1: 1, 0.0: 1}


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def test_orders(shared: Path) -> None:
    golden = json.loads((shared / "golden/golden_sampler.json").read_text())
    compared = 0
    for case in golden["cases"]:
        if "indices" not in case:
            continue  # the reference fails where all rows are of one kind; see below
        lengths = golden["lengths"][case["lengths"]]
        torch.manual_seed(case["seed"])
        generator = _generator(case.get("generator_seed"))
        for key in ("indices", "indices_epoch2"):
            if key in case:
                found = modality_length_order(lengths, case["batch_size"], case["world_size"], generator)
                assert found.tolist() == case[key]
                compared += 1
    assert compared == 122
    for case in golden["split_to_even_chunks"]:
        assert even_chunks(case["indices"], case["lengths"], case["num_chunks"]) == case["out"]


def test_one_kind_of_rows_is_grouped_too() -> None:
    lengths = list(range(1, 41))
    for sign in (1, -1):
        order = modality_length_order([sign * n for n in lengths], 2, 2, _generator(0))
        assert sorted(order) == list(range(40))
    with pytest.raises(ValueError, match="length 0"):
        modality_length_order([1, 0], 1, 1)


def test_a_step_holds_the_same_rows_on_any_number_of_processes() -> None:
    lengths = [1 + (7 * n) % 50 for n in range(64)]
    one = length_order(lengths, 8, 1, _generator(3))
    four = length_order(lengths, 2, 4, _generator(3))
    for start in range(0, 64, 8):
        assert sorted(one[start : start + 8]) == sorted(four[start : start + 8])


def test_every_step_is_a_whole_batch() -> None:
    assert filled([1, 2, 3, 4, 5], 4).tolist() == [1, 2, 3, 4, 5, 1, 2, 3]
    assert filled([1, 2], 4).tolist() == [1, 2, 1, 2]
