"""Shapes of configs as they are published: with what their class has as a default left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_families import make
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from viscot_core.families.generic.backbones import backbone_of
from viscot_core.families.generic.processor import load_processor
from viscot_core.families.generic.shapes import shape_of_config
from viscot_core.families.shapes import TowerShape
from viscot_core.train.recipe.base_model import shape_of
from viscot_core.train.recipe.schema import ModelSpec

# The fields that shapes depend on, billions of parameters, tokens. Gemma's are those of the hub's file.
GEMMA3_4B = (
    {
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 896, "patch_size": 14,
            "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
        },
    },
    4.300, 256,
)  # fmt: skip
# The older form: the language model's fields stand outside, and the tower does not name its kind.
QWEN25_3B = (
    {
        "model_type": "qwen2_5_vl", "hidden_size": 2048, "intermediate_size": 11008, "vocab_size": 151936,
        "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 2,
        "tie_word_embeddings": True, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
            "out_hidden_size": 2048, "spatial_merge_size": 2, "window_size": 112,
        },
    },
    3.755, 400,
)  # fmt: skip
SMOLVLM_500M = (
    {
        "model_type": "idefics3", "scale_factor": 4,
        "text_config": {
            "model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_attention_heads": 15,
            "num_hidden_layers": 32, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280,
        },
        "vision_config": {
            "model_type": "idefics3", "hidden_size": 768, "image_size": 512, "num_attention_heads": 12,
            "patch_size": 16,
        },
    },
    0.507, 64,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions", "tokens"),
    [GEMMA3_4B, QWEN25_3B, SMOLVLM_500M],
    ids=["gemma-3-4b", "qwen2.5-vl-3b", "smolvlm-500m"],
)
def test_what_a_published_config_leaves_out(
    config: dict[str, Any], billions: float, tokens: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(ModelSpec(checkpoint=str(tmp_path)))
    assert shape is not None and shape.total / 1e9 == pytest.approx(billions, rel=0.002)
    assert shape.tower.tokens == tokens, "of a usual image, or of one tile"


def test_a_damaged_config_has_no_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**QWEN25_3B[0], "num_hidden_layers": "many"}))
    assert shape_of(ModelSpec(checkpoint=str(tmp_path))) is None


# What published processors say of tiles; tiles of a photo of 640 x 480 and of the image with most of them.
TILES = {
    # InternVL3.5: the file of its image part asks for none, its processor does all the same.
    "internvl": (
        {
            "image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 448, "width": 448},
            "min_patches": 1, "max_patches": 12, "crop_to_patches": False,
        },
        13, 13,
    ),
    "llava-onevision": (
        {
            "image_processor_type": "LlavaOnevisionImageProcessor", "size": {"height": 384, "width": 384},
            "image_grid_pinpoints": [[384 * n, 384 * m] for n in range(1, 7) for m in range(1, 7)],
        },
        5, 37,
    ),
    "smolvlm": (
        {
            "image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 2048},
            "max_image_size": {"longest_edge": 512}, "do_image_splitting": True,
        },
        13, 17,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TILES)
def test_images_are_cut_as_the_processor_says(name: str, tmp_path: Path) -> None:
    said, usual, most = TILES[name]
    (tmp_path / "config.json").write_text(json.dumps(SMOLVLM_500M[0]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    shape = shape_of(ModelSpec(checkpoint=str(tmp_path)))
    assert shape is not None and shape.tower.tokens == usual * 64
    assert shape.tower.most_patches(2) == 2 * (most * 64 * 16 + usual)


def test_planned_tiles_are_those_of_a_prompt(tmp_path: Path) -> None:
    folder = make("idefics3", tmp_path / "model")
    shape = shape_of(ModelSpec(checkpoint=str(folder)))
    processor = load_processor(folder)
    image = Image.new("RGB", (640, 480))
    (ids,) = processor(text="<image>", images=[image])["input_ids"]
    assert shape is not None and ids.count(processor.image_token_id) == shape.tower.tokens


def test_several_images_may_be_one_square_each() -> None:
    tower = TowerShape(64, 2, 128, 56, 14, tiles=5, most_tokens=10 * 16, alone=True)
    assert (tower.tokens_of(1), tower.tokens_of(2)) == (5 * 16, 2 * 16)
    assert tower.most_patches(2) == 10 * 16 + 2 * 5


def test_glms_parts_are_counted() -> None:
    """Its tower was counted 2.5 times as large, the whole model 9 % too large."""
    config = AutoConfig.for_model("glm4v")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shape, parts = shape_of_config(config), backbone_of(config.to_dict()).parts
    for part in ("vision_tower", "projector", "llm"):
        real = sum(p.numel() for name, p in model.named_parameters() if parts.part_of(name) == part)
        assert shape.parameters(part) == pytest.approx(real, rel=0.005), part
