"""Names and configs of the two layouts, for the released sizes and for what transformers itself writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_checkpoints import change_config, refused, save, tensors_of

from viscot_core.errors import CheckpointError
from viscot_core.families.llava.family import expected_shapes
from viscot_core.families.llava.layouts import (
    Layout,
    config_from_llava,
    detect,
    image_tokens,
    module_name,
    rows_with_image_token,
    stored_name,
    tower_config_from_shapes,
)
from viscot_core.families.llava.original_config import config_to_llava
from viscot_core.families.table import family_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.load import load_model
from viscot_core.tensors import open_weights

SIZES = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}
CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


def original(size: str, side: int) -> dict[str, Any]:
    return SIZES[size] | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": f"openai/clip-vit-large-patch14{'-336' if side == 336 else ''}",
    }


@pytest.mark.parametrize("side", [224, 336])
@pytest.mark.parametrize(("size", "layers", "parameters"), [("7b", 32, 7.06e9), ("13b", 40, 13.35e9)])
def test_released_sizes(size: str, layers: int, parameters: float, side: int) -> None:
    """On the meta device: Llama's, CLIP-L's 391 and the projector's 4 tensors; names one to one."""
    fields = original(size, side)
    config = config_from_llava(fields, CLIP_L | {"image_size": side, "patch_size": 14}, image_id=32000)
    shapes = expected_shapes(config)
    assert len(shapes) == 9 * layers + 3 + 391 + 4
    assert config.text_config.vocab_size == 32064 and config.image_token_id == 32000
    assert image_tokens(config) == config.image_seq_length == (side // 14) ** 2
    count = sum(_count(shape) for shape in shapes.values())
    assert abs(count - parameters) < 0.01e9
    for layout in Layout:
        names = {stored_name(name, layout): name for name in shapes}
        assert len(names) == len(shapes)
        assert all(module_name(stored, layout) == name for stored, name in names.items())
    assert stored_name("model.language_model.layers.3.mlp.up_proj.weight", Layout.LLAVA) == (
        "model.layers.3.mlp.up_proj.weight"
    )
    assert tower_config_from_shapes(shapes)["num_attention_heads"] == 16
    assert tower_config_from_shapes(shapes)["image_size"] == side
    back = config_to_llava(config, 32000, "bfloat16")
    assert back.items() >= (fields | {"torch_dtype": "bfloat16", "vocab_size": 32000}).items()
    delattr(config, "original_llava_config")
    made = config_to_llava(config, 32000, "bfloat16")
    assert {key: made[key] for key in fields} == fields


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


@pytest.mark.parametrize(
    ("rows", "image_id", "wanted"),
    [(32000, 32000, 32064), (800, 800, 832), (32064, 32000, 32064), (410, 3, 410)],
)
def test_rows_for_the_image_token(rows: int, image_id: int, wanted: int) -> None:
    assert rows_with_image_token(rows, image_id) == wanted


@pytest.mark.parametrize("module_names", [True, False])
def test_what_transformers_writes_is_read(golden: Path, tmp_path: Path, module_names: bool) -> None:
    """Both forms of ``save_pretrained``: training saves module names, others the names on the hub."""
    import torch
    from transformers import LlavaForConditionalGeneration

    loaded = load_model(golden / "tiny_llava", device="cpu", dtype="fp32")
    folder = tmp_path / "saved"
    model = LlavaForConditionalGeneration(loaded.model.config)  # as training makes it
    model.load_state_dict(loaded.model.state_dict())
    model.save_pretrained(folder, save_original_format=not module_names)
    loaded.processor.tokens.hf.save_pretrained(folder)
    starts = {name.split(".")[0] for name in open_weights(folder)}
    assert ("model" in starts) is module_names
    again = open_checkpoint(folder)
    again.require_whole()
    assert again.layout is Layout.HF and again.text_rows == 800
    state = loaded.model.state_dict()
    assert all(torch.equal(source.read(), state[name]) for name, source in again.tensors.items())


@pytest.mark.parametrize(
    ("config", "names", "wanted"),
    [
        ({"model_type": "llava", "text_config": {}}, [], Layout.HF),
        ({"model_type": "llava_llama", "mm_hidden_size": 1024}, [], Layout.LLAVA),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, [], Layout.LLAVA),
        ({"model_type": "llama"}, ["model.mm_projector.0.weight"], Layout.LLAVA),
    ],
)
def test_detect(config: dict[str, Any], names: list[str], wanted: Layout) -> None:
    assert detect(config, names) is wanted


@pytest.mark.parametrize(
    "kind", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2VLForConditionalGeneration"]
)
def test_other_kinds_are_named(kind: str) -> None:
    with pytest.raises(CheckpointError, match=kind):
        detect({"architectures": [kind], "model_type": "x"}, ["model.norm.weight"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end = True"),
        ({"image_aspect_ratio": "anyres"}, "this is LLaVA-1.6 or later in its original layout"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio = 'anyres'"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature = 'cls'"),
        ({"mm_vision_tower": ["clip", "dino"]}, "it has 2 vision towers"),
        ({"quantization_config": {"quant_method": "awq"}}, "its weights are quantised (awq)"),
        ({"image_aspect_ratio": "square"}, "only 'pad'"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type"),
        ({"architectures": ["LlavaMistralForCausalLM"]}, "is not a Llama (LlavaMistralForCausalLM)"),
    ],
)
def test_a_config_that_means_another_model_is_refused(copy: Path, fields: dict[str, Any], said: str) -> None:
    """Each of these changes what the model reads: ignoring it would answer, and answer wrongly."""
    change_config(copy, **fields)
    assert said in refused(copy)


def test_a_tower_that_cannot_be_read_is_not_to_be_pulled(copy: Path) -> None:
    """Without its tower, a model of another kind was answered with a command that gets what is no use."""
    tensors = {name: tensor for name, tensor in tensors_of(copy).items() if "vision_tower" not in name}
    save(copy, tensors)
    for fields, said in (
        ({"mm_vision_tower": "google/siglip-so400m-patch14-384"}, "viscot reads CLIP towers only"),
        ({"mm_vision_tower": "some/clip", "image_aspect_ratio": "anyres"}, "this is LLaVA-1.6"),
    ):
        change_config(copy, **fields)
        assert said in refused(copy) and "models pull" not in refused(copy)
    change_config(copy, mm_vision_tower="some/clip", image_aspect_ratio="pad")
    assert "its vision tower is not inside: some/clip is not on this machine" in refused(copy)


def test_another_language_model_or_tower_in_transformers_llava_is_generic() -> None:
    """Its own chat template speaks to it; LLaVA-1.5's words were taken."""
    plain = {"model_type": "llava", "text_config": {}, "vision_config": {"model_type": "clip_vision_model"}}
    assert family_of(plain).name == "llava"
    for other in (
        {"text_config": {"model_type": "qwen2"}},
        {"vision_config": {"model_type": "siglip_vision_model"}},
        {"text_config": {"model_type": "mistral"}, "vision_config": {"model_type": "pixtral"}},
    ):
        assert family_of(plain | other).name == "generic"


def test_a_git_lfs_pointer_is_named(copy: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    for name in ("tokenizer.model", "model.safetensors", "config.json"):
        (copy / name).write_text(pointer)
        assert f"{name} is a git-LFS pointer, not the file itself; run 'git lfs pull'" in refused(copy)
