"""Tiny random models of other families, made from a config, as a hub's folder holds them.

``make(name, folder)`` for every name of ``FAMILIES``: 0.1-0.3 M parameters, a tokenizer trained here, the
family's own image processor and, where trl ships it, its real chat template (``chat_templates/``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from made_grid_families import make_glm, make_qwen
from made_tile_families import (
    make_gemma3,
    make_gemma4,
    make_idefics,
    make_internvl,
    make_molmo2,
    make_onevision,
)

FAMILIES: dict[str, Callable[..., Path]] = {
    "qwen2-vl": partial(make_qwen, "qwen2-vl"),
    "qwen2.5-vl": partial(make_qwen, "qwen2.5-vl"),
    "qwen3-vl": partial(make_qwen, "qwen3-vl"),
    "qwen3.5": partial(make_qwen, "qwen3.5"),
    "glm-4v": make_glm,
    "internvl": make_internvl,
    "llava-onevision": make_onevision,
    "idefics3": make_idefics,
    "smolvlm": partial(make_idefics, smol=True),
    "gemma3": make_gemma3,
    "gemma4": make_gemma4,
    "molmo2": make_molmo2,
}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """A tiny random model of the family ``name``."""
    return FAMILIES[name](folder, seed=seed)


def make_wide(name: str, folder: Path, seed: int = 0) -> Path:
    """As ``make``, with text heads of 32, which vLLM can do on a CPU, and weights that say more."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    make(name, folder, seed)
    config = AutoConfig.from_pretrained(folder)
    text = config.get_text_config()
    text.num_attention_heads = text.num_key_value_heads = text.hidden_size // 32
    text.head_dim = 32
    rope = text.rope_parameters
    if "mrope_section" in rope:
        rope["mrope_section"] = [6, 5, 5]
        rope["mrope_interleaved"] = config.model_type in ("qwen3_vl", "qwen3_5")  # as the hub's configs say
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(4 if tensor.ndim > 1 else 1)
    model.save_pretrained(folder)
    return folder
