"""What trains in each stage, and the optimizer's groups."""

from __future__ import annotations

from typing import Any

import pytest

from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.table import training_from_parts
from viscot_core.train.loop.trainable import add_adapters, freeze_for, learning, parameter_groups
from viscot_core.train.plan.estimates import frozen_parameters, trained_parameters
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.recipe.tiny_specs import ScratchSpec

TRAINING = training_from_parts()
SHAPE = ScratchSpec(
    image_side=56, patch=14, vision_width=24, vision_layers=3, vision_heads=2, vision_mlp=48,
    llm_width=24, llm_layers=2, llm_heads=2, llm_mlp=48, max_positions=256, vocab_size=300,
)  # fmt: skip


@pytest.fixture
def model() -> Any:
    tokenizer = train_tokenizer(["x"], vocab_size=300, max_positions=256)
    return build_model(SHAPE, tokenizer, feature_layer=-2, attention="sdpa", seed=0)


def _stage(*parts: str, **fields: Any) -> StageSpec:
    return StageSpec.model_validate(
        {
            "kind": "finetune",
            "train": parts,
            "epochs": 1,
            "global_batch_size": 8,
            "learning_rate": 1e-3,
            **fields,
        }
    )


def test_every_parameter_belongs_to_a_part(model: Any) -> None:
    assert all(TRAINING.parts.part_of(name) for name, _ in model.named_parameters())


def test_stage_one_trains_the_projector_alone(model: Any) -> None:
    freeze_for(TRAINING, model, _stage("projector"))
    counts = learning(TRAINING, model)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("multi_modal_projector" in name for name in trainable)
    assert counts["llm"] == counts["vision_tower"] == 0


def test_layers_that_never_get_a_gradient_stay_frozen(model: Any) -> None:
    freeze_for(TRAINING, model, _stage("projector", "llm", "vision_tower"))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all("encoder.layers.2." in name or "post_layernorm" in name for name in frozen)


@pytest.mark.parametrize("feature_layer", [-2, -1, 1])
def test_a_plan_counts_what_will_learn(model: Any, feature_layer: int) -> None:
    stage = _stage("projector", "llm", "vision_tower")
    model.config.vision_feature_layer = feature_layer
    freeze_for(TRAINING, model, stage)
    counted = learning(TRAINING, model)
    shape = TRAINING.shape_of_config(model.config)
    assert trained_parameters(shape, stage) == counted
    assert frozen_parameters(shape, stage) == sum(
        p.numel() for p in model.parameters() if not p.requires_grad
    )
    assert shape.total == sum(p.numel() for p in model.parameters())


def test_adapters_are_counted_where_they_learn(model: Any) -> None:
    stage = _stage("projector", "llm", lora={"rank": 4, "alpha": 8})
    assert stage.lora is not None
    shape = TRAINING.shape_of_config(model.config)
    freeze_for(TRAINING, model, stage)
    counted = learning(TRAINING, add_adapters(TRAINING, model, stage.lora, stage))
    assert counted["llm"] > 0 and counted["projector"] > 0 and counted["vision_tower"] == 0
    assert {part: count for part, count in counted.items() if count} == trained_parameters(shape, stage)


def test_other_rates_make_the_same_groups(model: Any) -> None:
    """A run that goes on with them finds every parameter's optimizer state where it was."""

    def layout(**rates: float) -> list[list[int]]:
        stage = _stage("projector", "llm", "vision_tower", weight_decay=0.1, **rates)
        freeze_for(TRAINING, model, stage)
        return [[id(p) for p in group["params"]] for group in parameter_groups(TRAINING, model, stage)]

    assert layout() == layout(projector_lr=1e-2, vision_tower_lr=1e-4) == layout(vision_tower_lr=1e-3)


def test_groups_carry_each_parts_rate_and_spare_norms_and_biases(model: Any) -> None:
    stage = _stage(
        "projector", "llm", "vision_tower", weight_decay=0.1, projector_lr=1e-2, vision_tower_lr=1e-4
    )
    freeze_for(TRAINING, model, stage)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = set()
    for group in parameter_groups(TRAINING, model, stage):
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            rate = {"vision_tower": 1e-4, "projector": 1e-2, "llm": 1e-3}[str(TRAINING.parts.part_of(name))]
            assert group["lr"] == rate
            plain = parameter.ndim < 2 or "norm" in name
            assert group["weight_decay"] == (0.0 if plain else 0.1)
    assert seen == {name for name, p in model.named_parameters() if p.requires_grad}
