"""What ``viscot train`` makes of parts or of a checkpoint is handed to the original code complete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_training import golden_recipe
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.families.checkpoint import Layout
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.export import export
from viscot_core.train.loop.trainable import add_adapters
from viscot_core.train.recipe.schema import Recipe
from viscot_core.train.state.initial import start
from viscot_core.train.state.saving import save_model

READ_BY_THE_ORIGINAL = {
    # Without one of these its code stops:
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "vocab_size": 800,
    "mm_hidden_size": 48,
    "mm_vision_select_layer": -2,
    # Without one of these it takes a default, which is another model or another image (in brackets):
    "mm_projector_type": "mlp2x_gelu",  # (linear)
    "mm_vision_select_feature": "patch",  # (patch)
    "mm_use_im_patch_token": False,  # (true: one more token)
    "mm_use_im_start_end": False,  # (false)
    "image_aspect_ratio": "pad",  # (none: cut to a square)
    "image_grid_pinpoints": None,
    "use_mm_proj": True,
    "tune_mm_mlp_adapter": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "pretraining_tp": 1,
    "tie_word_embeddings": False,
}
"""The fields of ``config.json`` that the original code and its transformers read, and this model's values."""


def _recipe(golden: Path, kind: str) -> Recipe:
    lora = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}, "train": ["projector", "llm"]}
    recipe = golden_recipe(golden, **(lora if kind.startswith("lora") else {}))
    if not kind.endswith("checkpoint"):
        return recipe
    model: dict[str, Any] = dict.fromkeys(("base_llm", "vision_tower", "projector"))
    model["checkpoint"] = str(golden / "tiny_llava")
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=model)})


@pytest.mark.parametrize("kind", ["parts", "lora parts", "checkpoint", "lora checkpoint", "projector parts"])
def test_a_run_in_the_original_layout(kind: str, shared: Path, tmp_path: Path) -> None:
    recipe = _recipe(shared / "golden", kind)
    stage = recipe.stage("pretrain" if kind.startswith("projector") else "finetune")
    run = start(tmp_path, recipe, stage)
    model = add_adapters(run.training, run.model, stage.lora, stage) if stage.lora else run.model
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "vision_tower" not in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.01)
    save_model(run, stage, model, tmp_path / "run")

    trained = open_checkpoint(tmp_path / "run")
    out = export(trained, tmp_path / "llava", Layout.LLAVA)
    config = json.loads((out / "config.json").read_text())
    assert {name: config.get(name, "absent") for name in READ_BY_THE_ORIGINAL} == READ_BY_THE_ORIGINAL
    assert "clip" in config["mm_vision_tower"]
    model_file = shared / "golden" / "tiny_vicuna" / "tokenizer.model"
    assert (out / "tokenizer.model").read_bytes() == model_file.read_bytes()

    shutil.copytree(shared / "golden" / "tiny_clip", tmp_path / "tiny_clip")  # where mm_vision_tower points
    again = open_checkpoint(out)
    again.require_whole()
    for name, source in trained.tensors.items():
        # The image token's row is not part of this layout.
        rows = 800 if source.shape[0] == 832 else None
        assert torch.equal(source.read()[:rows], again.tensors[name].read()[:rows]), name
    asked = [Message("user", "<image>\nWhere is it? "), Message("assistant", "[0.1, 0.2, 0.3, 0.4]")]
    asked += [Message("user", "<image>\nWhat is it?")]
    sizes = [Image.open(shared / "golden" / "images" / "portrait.jpg").size] * 2
    ids = [
        checkpoint.family.processor(checkpoint).render(asked, sizes, generate=True).ids
        for checkpoint in (trained, again)
    ]
    assert ids[0] == ids[1]
