"""Checkpoints as people have them: renamed, in parts, with a tower named in many ways."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_checkpoints import change_config, refused, same_model, save, tensors_of

from viscot_core.families.llava.layouts import Layout
from viscot_core.models.checkpoint import open_checkpoint


def test_both_forms_of_the_original_layout(golden: Path) -> None:
    for name, dtype in (("tiny_llava", "float32"), ("tiny_llava_bin", "bfloat16")):
        found = open_checkpoint(golden / name)
        found.require_whole()
        assert (found.layout, found.dtype, len(found.tensors)) == (Layout.LLAVA, dtype, 89)
        assert (found.text_rows, found.config.text_config.vocab_size) == (800, 832)
        assert found.config.image_token_id == 800
        assert found.manifest.turn_tokens == "plain"


def test_the_folder_s_name_decides_nothing(copy: Path) -> None:
    for name in ("vicuna-13b", "llava", "x"):
        renamed = copy.rename(copy.parent / name)
        assert open_checkpoint(renamed).layout is Layout.LLAVA
        copy = renamed


@pytest.mark.parametrize("tower", ["tiny_clip", ["tiny_clip"], "/home/someone/models/tiny_clip"])
def test_the_tower_may_be_named_in_many_ways(copy: Path, tower: Any) -> None:
    change_config(copy, mm_vision_tower=tower)
    found = open_checkpoint(copy)
    assert found.config.vision_config.num_attention_heads == 4 and not found.notes


def test_a_tower_inside_needs_no_clip_repository(copy: Path) -> None:
    """Its shape is read off the tensors; only the number of heads is CLIP's custom."""
    tensors = tensors_of(copy)
    for name, tensor in list(tensors.items()):
        if "vision_tower" in name or name == "model.mm_projector.0.weight":
            tensors[name] = _widened(tensor)
    save(copy, tensors)
    change_config(copy, mm_vision_tower="openai/clip-vit-large-patch14-336", mm_hidden_size=64)
    found = open_checkpoint(copy)
    found.require_whole()
    vision = found.config.vision_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers) == (64, 1, 3)
    assert (vision.image_size, vision.patch_size, vision.intermediate_size) == (56, 14, 96)
    assert "64 wide" in found.notes[0]


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """Every side of 48 becomes 64."""
    shape = [64 if length == 48 else length for length in tensor.shape]
    return torch.zeros(shape)


def test_heads_that_nothing_tells(copy: Path) -> None:
    change_config(copy, mm_vision_tower="elsewhere/clip")
    assert "48 wide, which does not tell its number of attention heads" in refused(copy)


def test_computed_buffers_are_ignored(copy: Path) -> None:
    tensors = tensors_of(copy)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)
    save(copy, tensors)
    open_checkpoint(copy).require_whole()


def test_projector_beside_a_plain_llama(copy: Path, golden: Path) -> None:
    """Vicuna + mm_projector.bin + the CLIP folder, as stage 1 of LLaVA leaves them."""
    tensors = tensors_of(copy)
    projector = {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name}
    tower = {
        name.removeprefix("model.vision_tower.vision_tower."): tensors.pop(name)
        for name in list(tensors)
        if "vision_tower" in name
    }
    save(copy, tensors)
    save(copy.parent / "tiny_clip", tower)
    torch.save(projector, copy / "mm_projector.bin")
    change_config(copy, architectures=["LlamaForCausalLM"], model_type="llama", mm_projector_type=None)
    found = open_checkpoint(copy)
    found.require_whole()
    assert "the vision tower comes from" in found.notes[0]
    assert same_model(found, open_checkpoint(golden / "tiny_llava"))


def test_a_folder_with_a_projector_only_finds_its_base(copy: Path, golden: Path) -> None:
    tensors = tensors_of(copy)
    torch.save(
        {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name},
        copy.parent / "projector.bin",
    )
    save(copy, tensors)
    stage1 = copy.parent / "stage1"
    stage1.mkdir()
    shutil.copy(copy / "config.json", stage1)
    shutil.move(copy.parent / "projector.bin", stage1 / "mm_projector.bin")
    change_config(stage1, _name_or_path="model")
    assert same_model(open_checkpoint(stage1), open_checkpoint(golden / "tiny_llava"))
    change_config(stage1, _name_or_path="gone")
    assert "no model 'gone'" in refused(stage1)


def test_projector_beside_whole_weights_is_a_copy(copy: Path) -> None:
    """LLaVA-1.5 ships its mm_projector.bin beside weights that hold it already."""
    tensors = tensors_of(copy)
    torch.save({n: t for n, t in tensors.items() if "mm_projector" in n}, copy / "mm_projector.bin")
    open_checkpoint(copy).require_whole()
