"""Shapes of configs as they are published: with what their class has as a default left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
