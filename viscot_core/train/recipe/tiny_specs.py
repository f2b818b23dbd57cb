"""Parts of a recipe that only the bundled tiny models use (`train.tiny`)."""

from __future__ import annotations

from viscot_core.train.recipe.fields import Strict, field


class ScratchSpec(Strict):
    """A model initialised at random: ``viscot-tiny`` and the shapes used in tests."""

    image_side: int = field(112, "side of the square image the vision tower reads", unit="px", gt=0, le=4096)
    patch: int = field(14, "side of one patch", unit="px", source="paper (CLIP ViT-L/14)", gt=0, le=4096)
    vision_width: int = field(192, "hidden width of the vision tower", gt=0, le=65_536)
    vision_layers: int = field(5, "layers of the vision tower", gt=0, le=1000)
    vision_heads: int = field(6, "attention heads of the vision tower", gt=0, le=1024)
    vision_mlp: int = field(768, "inner width of the vision tower's MLP", gt=0, le=262_144)
    llm_width: int = field(192, "hidden width of the language model", gt=0, le=65_536)
    llm_layers: int = field(4, "layers of the language model", gt=0, le=1000)
    llm_heads: int = field(6, "attention heads of the language model", gt=0, le=1024)
    llm_kv_heads: int | None = field(
        None, "key/value heads; null means as many as attention heads", gt=0, le=1024
    )
    llm_mlp: int = field(512, "inner width of the language model's MLP", gt=0, le=262_144)
    max_positions: int = field(
        512, "longest sequence the language model is built for", unit="tokens", gt=0, le=1_048_576
    )
    vocab_size: int = field(
        410, "at most this many ids for the tokenizer trained on the data", unit="ids", gt=0, le=1_048_576
    )
    tie_embeddings: bool = field(True, "input and output embeddings share their weights")


class FoundationSpec(Strict):
    """Throw-away heads after the projector, in place of the pre-training that a published tower has."""

    sheet_share: float = field(0.5, "share of images that are sheets full of numbers", ge=0, le=1)
    glyph_weight: float = field(1.0, "loss weight: which glyph lies under a patch", ge=0)
    color_weight: float = field(1.0, "loss weight: the colour under a patch", ge=0)
    box_weight: float = field(1.0, "loss weight: the card's box under a patch", ge=0)
    whiten_projector: bool = field(True, "start the projector's first layer from whitened tower features")


class TokenWeights(Strict):
    """Loss weights of single tokens; 1.0 everywhere is the usual mean cross-entropy."""

    decimals: tuple[float, float, float] = field(
        (1.0, 1.0, 1.0), "first, second and third decimal of every box coordinate"
    )
    answer_digits: float = field(1.0, "digits of the answer", gt=0)


class AttentionLossSpec(Strict):
    """Auxiliary attention loss: targets for two heads of layers 0 and 1 (nothing of it is shipped)."""

    weight: float = field(1.0, "weight of the auxiliary attention loss at step 0", gt=0)
    until: float = field(
        0.67, "share of the run after which the auxiliary attention loss has faded to 0", gt=0, le=1
    )
