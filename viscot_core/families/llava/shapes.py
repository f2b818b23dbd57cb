"""How large a LLaVA model is: parameters of each part, and the widths memory and time depend on. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from viscot_core.families.llava import scratch
from viscot_core.tensors import read_json


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
        """Parameters of one decoder layer: q, o and k, v; gate, up and down; two norms."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return attention + 3 * self.width * self.mlp + 2 * self.width

    @property
    def parameters(self) -> int:
        """All parameters, embeddings and output head included."""
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.width

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters of ``rank`` on the seven linear layers of every decoder layer."""
        # Rank r on a matrix [out, in] takes r * (in + out): q and o; k and v; gate, up and down.
        sides = 2 * (self.width + self.width) + 2 * (self.width + self.kv_width) + 3 * (self.width + self.mlp)
        return self.layers * rank * sides


@dataclass(frozen=True, slots=True)
class Tower:
    """A CLIP vision tower; ``feature_layer`` is the hidden state that is read (0 goes into layer 0)."""

    width: int
    layers: int
    mlp: int
    side: int
    patch: int
    feature_layer: int = -2

    @property
    def tokens(self) -> int:
        """Patches of one image: what the language model reads."""
        return (self.side // self.patch) ** 2

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four projections, the MLP, two norms, all with biases."""
        width = self.width
        return 4 * (width * width + width) + 2 * width * self.mlp + self.mlp + width + 4 * width

    @property
    def parameters(self) -> int:
        """All parameters, those of the layers that are not read included."""
        width = self.width
        # Patch convolution (no bias), class token, positions, and the norms before and after the layers.
        embeddings = 3 * self.patch**2 * width + width + (self.tokens + 1) * width + 4 * width
        return embeddings + self.layers * self.layer_parameters

    @property
    def learnable(self) -> int:
        """What can learn: neither the layers above the one that is read nor the norm behind them."""
        last = self.feature_layer
        read = last if last >= 0 else self.layers + last + 1
        return self.parameters - (self.layers - read) * self.layer_parameters - 2 * self.width


@dataclass(frozen=True, slots=True)
class Shape:
    """A whole model."""

    llm: Llm
    tower: Tower

    def parameters(self, part: str) -> int:
        """Parameters of one part (``llm``, ``vision_tower`` or ``projector``)."""
        if part == "llm":
            return self.llm.parameters
        if part == "vision_tower":
            return self.tower.parameters
        # The projector: two linear layers with biases.
        return (self.tower.width + 1) * self.llm.width + (self.llm.width + 1) * self.llm.width

    @property
    def total(self) -> int:
        """Parameters of all parts."""
        return self.llm.parameters + self.tower.parameters + self.parameters("projector")


# The published sizes (their config.json), so that a plan needs no download.
LLMS = {
    "lmsys/vicuna-7b-v1.5": Llm(4096, 32, 32, 11008, 32000),
    "lmsys/vicuna-13b-v1.5": Llm(5120, 40, 40, 13824, 32000),
}
TOWERS = {
    "openai/clip-vit-large-patch14": Tower(1024, 24, 4096, 224, 14),
    "openai/clip-vit-large-patch14-336": Tower(1024, 24, 4096, 336, 14),
}


def shape_of_parts(llm: str, tower: str, feature_layer: int) -> Shape | None:
    """The shape of a language model under a tower, published or from folders; None where unknown."""
    text, vision = _config(llm), _config(tower)
    vision = vision.get("vision_config") or vision
    found = LLMS.get(llm) or (_llm(text) if text else None)
    seen = TOWERS.get(tower) or (_tower(vision, feature_layer) if vision else None)
    return Shape(found, replace(seen, feature_layer=feature_layer)) if found and seen else None


def shape_of_folder(folder: str, feature_layer: int) -> Shape | None:
    """The shape of a checkpoint in transformers' layout; None where ``config.json`` does not tell it."""
    config = _config(folder)
    text, vision = config.get("text_config"), config.get("vision_config")
    layer = config.get("vision_feature_layer", feature_layer)
    return Shape(_llm(text), _tower(vision, layer)) if text and vision else None


def shape_of_config(config: Any) -> Shape:
    """The shape of a model in memory, from its ``LlavaConfig``."""
    found = config.to_dict()
    return Shape(_llm(found["text_config"]), _tower(found["vision_config"], config.vision_feature_layer))


def shape_of_scratch(spec: scratch.ScratchSizes, feature_layer: int) -> Shape:
    """The shape of a model that starts at random."""
    llm = Llm(
        spec.llm_width,
        spec.llm_layers,
        spec.llm_heads,
        spec.llm_mlp,
        spec.vocab_size,
        spec.llm_kv_heads or 0,
        spec.tie_embeddings,
    )
    sizes = spec.vision_width, spec.vision_layers, spec.vision_mlp, spec.image_side, spec.patch
    return Shape(llm, Tower(*sizes, feature_layer))


def _config(folder: str) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not folder or not path.is_file():
        return {}
    return read_json(path)


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


def _tower(config: dict[str, Any], feature_layer: int) -> Tower:
    return Tower(
        config.get("hidden_size", 1024),
        config.get("num_hidden_layers", 24),
        config.get("intermediate_size", 4096),
        config.get("image_size", 336),
        config.get("patch_size", 14),
        feature_layer,
    )
