"""What a command line asks of a recipe: which stages, one's own data, adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscot_core.errors import UsageError
from viscot_core.train.recipe import options
from viscot_core.train.recipe.load import load_recipe


def test_stages_are_chosen() -> None:
    recipe, notes = options.choose_stages(load_recipe("13b-336"), "all")
    assert [s.kind for s in recipe.stages] == ["finetune"] and "pretrain is skipped" in notes[0]
    recipe, notes = options.choose_stages(load_recipe("13b-336", ["model.projector=null"]), "all")
    assert [s.kind for s in recipe.stages] == ["pretrain", "finetune"] and not notes
    recipe, notes = options.choose_stages(load_recipe("7b-336"), "pretrain")
    assert [s.kind for s in recipe.stages] == ["pretrain"]
    assert recipe.model.projector is None and "a new projector is trained" in notes[0]
    with pytest.raises(UsageError, match="needs a projector"):
        options.choose_stages(load_recipe("7b-224"), "finetune")


def test_ones_own_data_and_adapters(tmp_path: Path) -> None:
    file = tmp_path / "my data.json"
    file.write_text("[]")
    recipe, place, notes = options.resolve(
        "7b-336", [], "finetune", file, tmp_path / "pictures", lora=64, load_in="4bit", allow_bad=2
    )
    stage = recipe.stage("finetune")
    assert stage.files == ("my data.json",) and place.root == tmp_path
    assert recipe.data.images == str(tmp_path / "pictures") and recipe.data.allow_bad == 2
    assert stage.lora is not None and (stage.lora.rank, stage.lora.alpha, stage.lora.load_in) == (
        64,
        128,
        "4bit",
    )
    assert stage.train == ("projector", "llm")
    assert (stage.learning_rate, stage.projector_lr) == (2e-4, 2e-5) and "LLaVA-1.5" in notes[0]
    mine = ["stages.finetune.learning_rate=1e-4"]
    recipe, _, _ = options.resolve("7b-336", mine, "finetune", file, None, lora=64)
    assert recipe.stage("finetune").learning_rate == 1e-4
    with pytest.raises(UsageError, match="give --data"):
        options.resolve("7b-336", [], "finetune", None, None)


def test_ones_own_rows_go_to_the_stage_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "it's mine.json"
    file.write_text("[]")
    usual = load_recipe("7b-336")
    recipe, _, _ = options.resolve("7b-336", [], "pretrain", file, None)
    assert recipe.stage("pretrain").files == (file.name,)
    recipe, _, _ = options.resolve("7b-336", ["model.projector=null"], "all", file, None)
    assert recipe.stage("finetune").files == (file.name,)
    assert recipe.stage("pretrain").files == usual.stage("pretrain").files


def test_a_projector_that_is_asked_for_is_trained_on(tmp_path: Path) -> None:
    mine = ["model.projector=mine.safetensors"]
    recipe, _, notes = options.resolve("7b-336", mine, "pretrain", tmp_path, None)
    assert recipe.model.projector == "mine.safetensors" and not notes
    recipe, _, notes = options.resolve("7b-336", [], "pretrain", tmp_path, None)
    assert recipe.model.projector is None and len(notes) == 1
