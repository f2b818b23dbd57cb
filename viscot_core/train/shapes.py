"""How large a model is: parameters of each part, and the widths memory and time depend on. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscot_core.train.schema import LoraSpec, ModelSpec, Part, ScratchSpec, StageSpec


@dataclass(frozen=True, slots=True)
class Llm:
    """A Llama: widths, layers and ids."""

    width: int
    layers: int
    heads: int
    mlp: int
    vocab: int
    kv_heads: int = 0
    tied: bool = False

    @property
    def kv_width(self) -> int:
        """Width of keys and of values."""
        return self.width * (self.kv_heads or self.heads) // self.heads

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return attention + 3 * self.width * self.mlp + 2 * self.width

    @property
    def parameters(self) -> int:
        """All parameters, embeddings and output head included."""
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.width


@dataclass(frozen=True, slots=True)
class Tower:
    """A CLIP vision tower."""

    width: int
    layers: int
    mlp: int
    side: int
    patch: int

    @property
    def tokens(self) -> int:
        """Patches of one picture: what the language model reads."""
        return (self.side // self.patch) ** 2

    @property
    def parameters(self) -> int:
        """All parameters, the unused last layer included."""
        width = self.width
        embeddings = 3 * self.patch**2 * width + width + (self.tokens + 1) * width + 4 * width
        layer = 4 * (width * width + width) + 2 * width * self.mlp + self.mlp + width + 4 * width
        return embeddings + self.layers * layer


@dataclass(frozen=True, slots=True)
class Shape:
    """A whole model."""

    llm: Llm
    tower: Tower

    def parameters(self, part: Part) -> int:
        """Parameters of one part."""
        if part == "llm":
            return self.llm.parameters
        if part == "vision_tower":
            return self.tower.parameters
        return (self.tower.width + 1) * self.llm.width + (self.llm.width + 1) * self.llm.width

    @property
    def total(self) -> int:
        """Parameters of all parts."""
        return self.llm.parameters + self.tower.parameters + self.parameters("projector")

    def trained(self, stage: StageSpec) -> dict[Part, int]:
        """Trained parameters of each part that learns in ``stage`` (adapters only, under LoRA)."""
        counts = {part: self.parameters(part) for part in stage.train}
        if stage.lora and "llm" in counts:
            counts["llm"] = lora_parameters(self.llm, stage.lora)
        return counts


def lora_parameters(llm: Llm, lora: LoraSpec) -> int:
    """Parameters of adapters on the seven linear layers of every decoder layer."""
    width, kv, mlp = llm.width, llm.kv_width, llm.mlp
    sides = 2 * (width + width) + 2 * (width + kv) + 3 * (width + mlp)
    return llm.layers * lora.rank * sides


# The published sizes (their config.json), so that a plan needs no download.
LLMS = {
    "lmsys/vicuna-7b-v1.5": Llm(4096, 32, 32, 11008, 32000),
    "lmsys/vicuna-13b-v1.5": Llm(5120, 40, 40, 13824, 32000),
}
TOWERS = {
    "openai/clip-vit-large-patch14": Tower(1024, 24, 4096, 224, 14),
    "openai/clip-vit-large-patch14-336": Tower(1024, 24, 4096, 336, 14),
}


def shape_of(model: ModelSpec) -> Shape | None:
    """The shape a recipe names: its numbers, a folder's config.json or the table above; None if unknown."""
    if model.scratch:
        return _from_scratch(model.scratch)
    if model.checkpoint:
        config = _config(model.checkpoint)
        text, vision = config.get("text_config"), config.get("vision_config")
    else:
        text = _config(model.base_llm)
        vision = _config(model.vision_tower)
        vision = vision.get("vision_config") or vision
    llm = LLMS.get(model.base_llm or "") or (_llm(text) if text else None)
    tower = TOWERS.get(model.vision_tower or "") or (_tower(vision) if vision else None)
    return Shape(llm, tower) if llm and tower else None


def shape_of_config(config: Any) -> Shape:
    """The shape of a model in memory, from its ``LlavaConfig``."""
    found = config.to_dict()
    return Shape(_llm(found["text_config"]), _tower(found["vision_config"]))


def _from_scratch(spec: ScratchSpec) -> Shape:
    llm = Llm(
        spec.llm_width,
        spec.llm_layers,
        spec.llm_heads,
        spec.llm_mlp,
        spec.vocab_size,
        spec.llm_kv_heads or 0,
        spec.tie_embeddings,
    )
    return Shape(
        llm, Tower(spec.vision_width, spec.vision_layers, spec.vision_mlp, spec.image_side, spec.patch)
    )


def _config(folder: str | None) -> dict[str, Any]:
    path = Path(folder or "") / "config.json"
    if not folder or not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _llm(config: dict[str, Any]) -> Llm:
    heads = config.get("num_attention_heads", 32)
    return Llm(
        config.get("hidden_size", 4096),
        config.get("num_hidden_layers", 32),
        heads,
        config.get("intermediate_size", 11008),
        config.get("vocab_size", 32000),
        config.get("num_key_value_heads") or heads,
        bool(config.get("tie_word_embeddings", False)),
    )


def _tower(config: dict[str, Any]) -> Tower:
    return Tower(
        config.get("hidden_size", 1024),
        config.get("num_hidden_layers", 24),
        config.get("intermediate_size", 4096),
        config.get("image_size", 336),
        config.get("patch_size", 14),
    )
