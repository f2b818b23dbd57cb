"""Counted limits: what a model must compute for its answers, in FLOP, whoever computes it. No torch.

Counted from shapes: matrix products at 2 FLOP a weight and token, attention's two products (``QK`` and
``weights V``), and nothing else (norms, activations and softmax are under 1 %).
"""

from __future__ import annotations

from viscot_core.families.shapes import LlmShape, ModelShape, TowerShape


def layer_weights(llm: LlmShape) -> int:
    """Weights of one decoder layer that take part in matrix products."""
    return 2 * llm.width * (llm.width + llm.kv_width) + 3 * llm.width * llm.mlp


def llm_flop(llm: LlmShape, new: int, before: int = 0, heads: int = 1) -> float:
    """A forward pass over ``new`` tokens behind ``before`` kept ones; ``heads`` positions get logits.

    Token ``i`` attends to ``before + i`` keys, so causal attention costs half of the full square.
    """
    products = 2.0 * llm.layers * layer_weights(llm) * new
    pairs = new * before + new * (new + 1) / 2
    attention = 4.0 * llm.layers * llm.width * pairs
    return products + attention + 2.0 * llm.vocab * llm.width * heads


def decode_flop(llm: LlmShape, steps: int, before: int) -> float:
    """``steps`` tokens said one by one behind ``before``: the same products, logits for each."""
    return llm_flop(llm, steps, before, heads=steps)


def read_layers(tower: TowerShape) -> int:
    """Layers of the tower whose output is used (-2: all but the last)."""
    last = tower.feature_layer
    return last if last >= 0 else tower.layers + 1 + last


def tower_layer_weights(tower: TowerShape) -> int:
    """Weights of one layer of the tower that take part in matrix products."""
    return 4 * tower.width**2 + (3 if tower.gated else 2) * tower.width * tower.mlp


def tower_flop(tower: TowerShape, images: float = 1) -> float:
    """A forward pass of the tower over ``images`` of the usual size: patches and the class token.

    Attention is not causal, and each of an image's tiles is alone.
    """
    patches = (tower.side // tower.patch) ** 2
    n = patches + 1
    layer = 2.0 * tower_layer_weights(tower) * n + 4.0 * tower.width * n * n
    tile = read_layers(tower) * layer + 2.0 * 3 * tower.patch**2 * tower.width * patches
    return images * tower.tiles * tile


def projector_flop(shape: ModelShape, images: float = 1) -> float:
    """A forward pass of the projector; of two layers where the shape does not say its parameters."""
    weights = shape.projector or shape.tower.width * shape.llm.width + shape.llm.width**2
    return 2.0 * weights * shape.tower.tokens * images
