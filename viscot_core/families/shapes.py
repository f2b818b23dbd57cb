"""How large a model is: parameters of each part, and the widths that memory and time depend on. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LlmShape:
    """A decoder with gated MLPs: widths, layers and ids."""

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
class TowerShape:
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
class ModelShape:
    """A whole model: a language model, a tower, and two linear layers between them."""

    llm: LlmShape
    tower: TowerShape

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
