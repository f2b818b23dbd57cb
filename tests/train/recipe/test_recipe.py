"""Recipes: the shipped ones hold the reference's values, and every fault is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from viscot_core import resources
from viscot_core.errors import RecipeError, UsageError
from viscot_core.train.recipe.checks import nearest_divisors
from viscot_core.train.recipe.explain import explained
from viscot_core.train.recipe.load import dump_recipe, load_recipe, recipe_path, validate

SIZES = ("7b-224", "7b-336", "13b-224", "13b-336")
CHAT = (
    "qwen3-vl-4b", "qwen3-vl-8b", "smolvlm-500m", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "internvl3.5-8b",
    "qwen3-vl-8b-grpo",
)  # fmt: skip


def test_every_shipped_recipe_is_right() -> None:
    assert list(resources.recipes()) == ["tiny", *SIZES, "tiny-dpo", "tiny-grpo", "tiny-zoom", *CHAT]
    for name in resources.recipes():
        recipe = load_recipe(name)
        assert validate(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("name", SIZES)
def test_the_references_values(name: str) -> None:
    recipe = load_recipe(name)
    first, second = recipe.stages
    assert (first.learning_rate, first.global_batch_size, first.epochs, first.train) == (
        1e-3,
        256,
        1,
        ("projector",),
    )
    assert (second.learning_rate, second.global_batch_size, second.epochs) == (2e-5, 128, 1)
    assert (second.warmup_ratio, second.schedule, second.precision, second.tf32) == (
        0.03,
        "cosine",
        "bf16",
        True,
    )
    assert second.train == ("projector", "llm", "vision_tower")
    assert (second.weight_decay, second.max_length, second.group_by) == (0.0, 2048, "modality_length")
    assert (first.zero_stage, second.zero_stage) == (2, 3)
    assert (recipe.model.feature_layer, recipe.model.projector_type) == (-2, "mlp2x_gelu")
    assert not recipe.data.legacy_crop


def test_overrides_by_stage_and_through_what_is_not_given() -> None:
    lora = ["stages.finetune.lora.rank=64", "stages.finetune.train=[projector, llm]"]
    recipe = load_recipe("7b-336", ["stages.finetune.learning_rate=1e-5", *lora])
    stage = recipe.stage("finetune")
    assert stage.learning_rate == 1e-5
    assert stage.lora is not None and stage.lora.rank == 64
    assert load_recipe("7b-336", ["stages.1.seed=3"]).stages[1].seed == 3


def test_all_faults_at_once_each_with_path_value_and_fix() -> None:
    faults = {
        "stages.finetune.learning_rat=1e-5": "1e-05 - unknown key. Did you mean 'learning_rate'",
        "stages.pretrain.schedule=cosin": "stages.pretrain.schedule: 'cosin' - input should be 'cosine'",
        "stages.finetune.per_device_batch_size=6": "6 - must divide global_batch_size 128: 4 or 8",
        "stages.pretrain.epochs=null": "stages.pretrain.epochs: null - give either epochs or max_steps",
        "stages.pretrain.vision_tower_lr=1e-5": "vision_tower_lr: 1e-05 - vision_tower is frozen here",
        "seed=abc": "seed: 'abc' - input should be a valid integer",
        "stages.finetne.seed=3": "there is no 'finetne' among pretrain, finetune. Did you mean 'finetune'?",
        "nonsense": "--set nonsense: not of the form a.b=value",
    }
    with pytest.raises(RecipeError) as caught:
        load_recipe("7b-336", list(faults))
    told = "\n".join(caught.value.problems)
    for expected in faults.values():
        assert expected in told
    assert len(caught.value.problems) == len(faults)


def test_a_faulty_required_entry_hides_no_contradiction() -> None:
    raw = yaml.safe_load(recipe_path("tiny").read_text(encoding="utf-8"))
    raw["colour"], raw["model"]["scratch"]["image_side"] = "red", 113
    del raw["stages"][0]["train"]
    raw["stages"][-1] |= {"learning_rate": "fast", "global_batch_size": 32, "per_device_batch_size": 5}
    with pytest.raises(RecipeError) as refusal:
        validate(raw)
    assert {problem.partition(":")[0] for problem in refusal.value.problems} == {
        "colour",
        "model.scratch.image_side",
        "stages.foundation.train",
        "stages.finetune.learning_rate",
        "stages.finetune.per_device_batch_size",
    }
    raw["stages"][-1]["global_batch_size"] = "many"  # what it must be divided by is not known
    with pytest.raises(RecipeError) as refusal:
        validate(raw)
    assert "stages.finetune.per_device_batch_size" not in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.base_llm=null", "give exactly one of base_llm, checkpoint, scratch"),
        ("stages.finetune.offload=optimizer", "needs zero_stage 1, 2 or 3"),
        ("stages.finetune.train=[projektor]", "Did you mean 'projector'?"),
        ("stages.finetune.learning_rate=fast", "unable to parse"),
        ("stages.finetune.lora.rank=8", "train: vision_tower - stays frozen under lora; remove it"),
        ("stages.finetune.compile=true", "compile: true - not under zero_stage 3, which is slower so"),
        ("stages.finetune.max_steps=5", "give either epochs or max_steps"),
        ("stages.finetune.warmup_ratio=.inf", "finite"),
        ("stages=3", "give a list"),
    ],
)
def test_single_faults(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match="problem") as caught:
        load_recipe(
            "7b-336", [override, "stages.finetune.zero_stage=0"] if "offload" in override else [override]
        )
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [", "name: a\nname: b\n"])
def test_files_that_are_no_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"bad\.yaml"):
        load_recipe(path)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean '7b-336'"):
        recipe_path("7b-36")


def test_shapes_that_cannot_be_built() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("tiny", ["model.scratch.image_side=100", "model.scratch.llm_heads=7"])
    told = str(caught.value)
    assert "model.scratch.image_side: 100" in told and "98, 112" in told
    assert "model.scratch.llm_heads: 7 - must divide llm_width 192: 6 or 8" in told


def test_a_model_from_scratch_has_no_weights_to_adapt() -> None:
    with pytest.raises(RecipeError, match="lora: given - a model from scratch"):
        load_recipe("tiny", ["stages.finetune.lora.rank=4"])


def test_nearest_divisors() -> None:
    assert nearest_divisors(128, 6) == [4, 8]
    assert nearest_divisors(7, 7) == [7]


def test_every_field_is_explained() -> None:
    rows = explained(load_recipe("7b-336"))
    paths = [row[0] for row in rows]
    assert "stages.finetune.learning_rate" in paths
    assert all(meaning for *_, meaning, _ in rows)
    assert all(source for *_, source in rows)
