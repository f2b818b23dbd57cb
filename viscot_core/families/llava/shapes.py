"""The shapes of LLaVA models: published ones, and those that a config or a recipe's sizes say. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from viscot_core.families.shapes import LlmShape, ModelShape, TowerShape
from viscot_core.families.training import ModelChoice, ScratchSizes
from viscot_core.tensors import read_json

# The published sizes (their config.json), so that a plan needs no download.
LLMS = {
    "lmsys/vicuna-7b-v1.5": LlmShape(4096, 32, 32, 11008, 32000),
    "lmsys/vicuna-13b-v1.5": LlmShape(5120, 40, 40, 13824, 32000),
}
TOWERS = {
    "openai/clip-vit-large-patch14": TowerShape(1024, 24, 4096, 224, 14),
    "openai/clip-vit-large-patch14-336": TowerShape(1024, 24, 4096, 336, 14),
}


def shape_of(choice: ModelChoice) -> ModelShape | None:
    """The shape of the model that a recipe names; None where it is neither published nor on this machine."""
    layer = choice.feature_layer
    if choice.scratch:
        return shape_of_scratch(choice.scratch, layer)
    if choice.checkpoint:
        return shape_of_folder(choice.checkpoint, layer)
    return shape_of_parts(choice.base_llm or "", choice.vision_tower or "", layer)


def shape_of_parts(llm: str, tower: str, feature_layer: int) -> ModelShape | None:
    """The shape of a language model under a tower, published or from folders; None where unknown."""
    text, vision = _config(llm), _config(tower)
    vision = vision.get("vision_config") or vision
    found = LLMS.get(llm) or (_llm(text) if text else None)
    seen = TOWERS.get(tower) or (_tower(vision, feature_layer) if vision else None)
    return ModelShape(found, replace(seen, feature_layer=feature_layer)) if found and seen else None


def shape_of_folder(folder: str, feature_layer: int) -> ModelShape | None:
    """The shape of a checkpoint in transformers' layout; None where ``config.json`` does not tell it."""
    config = _config(folder)
    text, vision = config.get("text_config"), config.get("vision_config")
    layer = config.get("vision_feature_layer", feature_layer)
    return ModelShape(_llm(text), _tower(vision, layer)) if text and vision else None


def shape_of_config(config: Any) -> ModelShape:
    """The shape of a model in memory, from its ``LlavaConfig``."""
    found = config.to_dict()
    return ModelShape(_llm(found["text_config"]), _tower(found["vision_config"], config.vision_feature_layer))


def shape_of_scratch(spec: ScratchSizes, feature_layer: int) -> ModelShape:
    """The shape of a model that starts at random."""
    llm = LlmShape(
        spec.llm_width,
        spec.llm_layers,
        spec.llm_heads,
        spec.llm_mlp,
        spec.vocab_size,
        spec.llm_kv_heads or 0,
        spec.tie_embeddings,
    )
    sizes = spec.vision_width, spec.vision_layers, spec.vision_mlp, spec.image_side, spec.patch
    return ModelShape(llm, TowerShape(*sizes, feature_layer))


def _config(folder: str) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not folder or not path.is_file():
        return {}
    return read_json(path)


def _llm(config: dict[str, Any]) -> LlmShape:
    heads = config.get("num_attention_heads", 32)
    return LlmShape(
        config.get("hidden_size", 4096),
        config.get("num_hidden_layers", 32),
        heads,
        config.get("intermediate_size", 11008),
        config.get("vocab_size", 32000),
        config.get("num_key_value_heads") or heads,
        bool(config.get("tie_word_embeddings", False)),
    )


def _tower(config: dict[str, Any], feature_layer: int) -> TowerShape:
    return TowerShape(
        config.get("hidden_size", 1024),
        config.get("num_hidden_layers", 24),
        config.get("intermediate_size", 4096),
        config.get("image_size", 336),
        config.get("patch_size", 14),
        feature_layer,
    )
