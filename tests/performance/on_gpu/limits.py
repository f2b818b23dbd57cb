"""Counted limits of what the measurements do: an item, a decoding step, a training step. No torch.

What one pass costs is counted in ``families/limits.py``; here it is put together.

    work = two_turn_item(shape, before=35, question=40, box=29, request=60, answer=6)
    items_per_second(work.total, tflops=800)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from viscot_core.families.limits import decode_flop, layer_weights, llm_flop, projector_flop, tower_flop
from viscot_core.families.shapes import LlmShape, ModelShape

# -- an item of the benchmark ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """FLOP of one item, by phase."""

    vision: float
    prefill: float
    decode: float

    @property
    def total(self) -> float:
        return self.vision + self.prefill + self.decode

    def shares(self) -> dict[str, float]:
        """Each phase's share of the whole."""
        return {each.name: getattr(self, each.name) / self.total for each in fields(self)}


def two_turn_item(
    shape: ModelShape, *, before: int, question: int, box: int, request: int, answer: int, reuse: bool = True
) -> Work:
    """A two-turn question: where to look, then the answer from the image and the crop.

    Args:
        before: text tokens before the image (system words, ``USER:``).
        question: text tokens of turn 1 behind the image.
        box: tokens said in turn 1, the end token included.
        request: text tokens of turn 2 behind the first image (question, box, request), without the crop's.
        answer: tokens said in turn 2, the end token included.
        reuse: the image's keys and values are computed once for both turns.
    """
    llm, image = shape.llm, shape.tower.tokens
    prefix, second = before + image, request + image
    prefill = llm_flop(llm, prefix, heads=0) + llm_flop(llm, question, prefix) + llm_flop(llm, second, prefix)
    if not reuse:
        prefill += llm_flop(llm, prefix, heads=0)
    # The first token of each turn comes out of the prefill.
    decode = decode_flop(llm, box - 1, prefix + question) + decode_flop(llm, answer - 1, prefix + second)
    return Work(tower_flop(shape.tower, 2) + projector_flop(shape, 2), prefill, decode)


def referring_expression(
    shape: ModelShape, *, before: int, question: int, box: int, per_image: float = 1
) -> Work:
    """One referring expression where ``per_image`` of them share the image's keys and values."""
    llm, prefix = shape.llm, before + shape.tower.tokens
    prefill = llm_flop(llm, prefix, heads=0) / per_image + llm_flop(llm, question, prefix)
    vision = (tower_flop(shape.tower) + projector_flop(shape)) / per_image
    return Work(vision, prefill, decode_flop(llm, box - 1, prefix + question))


def items_per_second(flop: float, tflops: float) -> float:
    """How many of them a card with ``tflops`` (1e12 FLOP/s, measured or of its sheet) does at best."""
    return tflops * 1e12 / flop


# -- decoding --------------------------------------------------------------------------------------------


def kv_bytes_per_token(llm: LlmShape, size: float = 2) -> float:
    """Keys and values of one token in all layers."""
    return 2.0 * llm.layers * llm.kv_width * size


def weight_bytes(llm: LlmShape, size: float = 2, head_size: float = 2) -> float:
    """What every decoding step reads of the weights: all layers (``size`` bytes each) and the head; of the
    embeddings a row a token, which is nothing.
    """
    return size * llm.layers * layer_weights(llm) + head_size * llm.vocab * llm.width


def decode_step_bytes(
    llm: LlmShape, rows: int, own: float, *, shared: float = 0, images: int = 1, size: float = 2
) -> float:
    """What one step of ``rows`` must read: the weights once, each row's ``own`` tokens, and ``shared`` tokens
    before them once for each of ``images``.
    """
    return weight_bytes(llm, size) + (rows * own + images * shared) * kv_bytes_per_token(llm)


def decode_step_seconds(
    llm: LlmShape,
    rows: int,
    own: float,
    *,
    bandwidth: float,
    tflops: float = 0.0,
    shared: float = 0,
    images: int = 1,
) -> float:
    """The step's floor: bytes over ``bandwidth`` (bytes/s), or FLOP over ``tflops`` where that is longer."""
    reading = decode_step_bytes(llm, rows, own, shared=shared, images=images) / bandwidth
    each = llm_flop(llm, 1, int(own + shared))
    return max(reading, rows * each / (tflops * 1e12)) if tflops else reading


# -- training --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Learns:
    """Which parts learn; ``lora`` is the rank of the adapters that learn in the language model's place."""

    llm: bool = True
    projector: bool = True
    tower: bool = True
    lora: int = 0


def lora_weights(llm: LlmShape, rank: int) -> int:
    """Weights of adapters of ``rank`` on the seven linear layers of every decoder layer."""
    width, kv, mlp = llm.width, llm.kv_width, llm.mlp
    return llm.layers * rank * (2 * (width + width) + 2 * (width + kv) + 3 * (width + mlp))


def training_flop(
    shape: ModelShape, tokens: int, images: float, learns: Learns, supervised: int | None = None
) -> float:
    """Useful FLOP of one sample, forward and backward; what is recomputed in the backward is not counted.

    Backward costs 2x forward where weights learn, 1x where they are frozen and only pass gradients on, and
    nothing below the lowest part that learns. Causal attention is counted by the pairs that see each other,
    with 2x for its backward. The head counts at ``supervised`` positions (None: at all of them).
    """
    llm = shape.llm
    heads = tokens if supervised is None else supervised
    products = 2.0 * (llm.layers * layer_weights(llm) * tokens + llm.vocab * llm.width * heads)
    attention = 4.0 * llm.layers * llm.width * tokens * (tokens + 1) / 2
    passes = learns.llm or learns.projector or learns.tower
    whole = learns.llm and not learns.lora
    flop = products * (3 if whole else 2 if passes else 1) + attention * (3 if passes else 1)
    if learns.lora:
        flop += 6.0 * lora_weights(llm, learns.lora) * tokens
    flop += projector_flop(shape, images) * (3 if learns.projector else 2 if learns.tower else 1)
    return flop + tower_flop(shape.tower, images) * (3 if learns.tower else 1)


def training_flop_per_token(
    shape: ModelShape, samples: Sequence[tuple[int, float]], learns: Learns, supervised: int | None = None
) -> float:
    """Useful FLOP a real token over ``samples`` of ``(tokens, images)``: MFU is this, times real tokens a
    second, over the card's dense peak.
    """
    work = sum(training_flop(shape, tokens, images, learns, supervised) for tokens, images in samples)
    return work / sum(tokens for tokens, _ in samples)
