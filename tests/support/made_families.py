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
