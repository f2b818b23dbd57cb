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
    head_dim: int = 0
    """Width of a head where the heads together are not as wide as the model (Qwen3)."""

    @property
    def q_width(self) -> int:
        """Width of queries, and of the attention's result."""
        return self.heads * self.head_dim or self.width

    @property
    def kv_width(self) -> int:
        """Width of keys and of values."""
        return self.q_width * (self.kv_heads or self.heads) // self.heads

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer: q, o and k, v; gate, up and down; two norms."""
        attention = 2 * self.width * (self.q_width + self.kv_width)
        return attention + 3 * self.width * self.mlp + 2 * self.width

    @property
    def parameters(self) -> int:
        """All parameters, embeddings and output head included."""
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.width

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters of ``rank`` on the seven linear layers of every decoder layer."""
        # Rank r on a matrix [out, in] takes r * (in + out): q and o; k and v; gate, up and down.
        attention = 2 * (self.width + self.q_width) + 2 * (self.width + self.kv_width)
        sides = attention + 3 * (self.width + self.mlp)
        return self.layers * rank * sides


@dataclass(frozen=True, slots=True)
class TowerShape:
    """A vision tower; ``feature_layer`` is the hidden state that is read (0 goes into layer 0).

    Attributes:
        side: of the square that it reads; of a usual image where sizes vary, with as many pixels.
        merge: patches along the side of the square that becomes one token.
        gated: its MLPs have three matrices, not two.
        tiles: squares that a usual image is cut into, the whole one among them.
        most_tokens: of an image at most, where sizes or numbers of tiles vary.
        alone: only an image that is alone in its prompt is cut; several are one square each.
        after: parameters behind the layers (GLM: a convolution that merges patches).
    """

    width: int
    layers: int
    mlp: int
    side: int
    patch: int
    feature_layer: int = -2
    merge: int = 1
    gated: bool = False
    tiles: int = 1
    most_tokens: int = 0
    alone: bool = False
    after: int = 0

    @property
    def square_tokens(self) -> int:
        """What the language model reads of one square."""
        return (self.side // self.patch // self.merge) ** 2

    @property
    def tokens(self) -> int:
        """What the language model reads of one image, the only one of its prompt."""
        return self.tiles * self.square_tokens

    def tokens_of(self, images: float) -> float:
        """What it reads of the images of one prompt, together."""
        return images * (self.square_tokens if self.alone and images > 1 else self.tokens)

    def most_patches(self, images: int) -> int:
        """Patches of the largest images of one prompt, with a class token for each square."""
        most = max(self.most_tokens, self.tokens)
        tokens = max(most, images * self.square_tokens) if self.alone else images * most
        return tokens * self.merge**2 + images * self.tiles

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four projections, the MLP, two norms, all with biases."""
        width, matrices = self.width, 3 if self.gated else 2
        return 4 * (width * width + width) + matrices * width * self.mlp + self.mlp + width + 4 * width

    @property
    def parameters(self) -> int:
        """All parameters, those of the layers that are not read included."""
        width = self.width
        # Patch convolution (no bias), class token, positions, and the norms before and after the layers.
        patches = (self.side // self.patch) ** 2
        embeddings = 3 * self.patch**2 * width + width + (patches + 1) * width + 4 * width
        return embeddings + self.layers * self.layer_parameters + self.after

    @property
    def learnable(self) -> int:
        """What can learn: neither the layers above the one that is read nor the norm behind them."""
        last = self.feature_layer
        read = last if last >= 0 else self.layers + last + 1
        return self.parameters - (self.layers - read) * self.layer_parameters - 2 * self.width


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A whole model: a language model, a tower, and what stands between them.

    ``projector`` is the number of its parameters; 0: two linear layers with biases, as LLaVA has them.
    ``packs`` as a family's ``Training`` says: samples in one row can be kept from seeing each other.
    """

    llm: LlmShape
    tower: TowerShape
    projector: int = 0
    packs: bool = True

    def parameters(self, part: str) -> int:
        """Parameters of one part (``llm``, ``vision_tower`` or ``projector``)."""
        if part == "llm":
            return self.llm.parameters
        if part == "vision_tower":
            return self.tower.parameters
        return (
            self.projector or (self.tower.width + 1) * self.llm.width + (self.llm.width + 1) * self.llm.width
        )

    @property
    def total(self) -> int:
        """Parameters of all parts."""
        return self.llm.parameters + self.tower.parameters + self.parameters("projector")
