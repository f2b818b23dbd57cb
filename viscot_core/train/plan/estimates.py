"""Estimates of memory, time and disk for a plan. They are rules of thumb, and every output says so.

Memory counts weights, gradients and optimizer state as ZeRO divides them (Rajbhandari et al., 2020),
activations of the longest sample, and the logits. Time counts floating-point operations (2 per weight and
token forward, 4 backward) at an assumed share of the GPU's peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from viscot_core.families.shapes import ModelShape
from viscot_core.gpus import peak_tflops
from viscot_core.train.plan.plan_types import recompute_of
from viscot_core.train.recipe.schema import ReinforceSpec, StageSpec

GIB = 2**30
SUPERVISED = 0.25  # of a sample's tokens, at most of most samples
IMAGES = 2  # in a CoT sample: the whole image and the crop
UTILISATION = (
    0.40  # share of the GPU's peak in a run that never waits for data; the reference's 60 h are 0.12
)
OVERHEAD_GIB = 2.0  # context, NCCL buffers, fragmentation


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes per parameter: the working weights, gradients, and the optimizer's state."""

    weights: int
    gradients: int
    optimizer: int


def bytes_of(stage: StageSpec) -> Bytes:
    """Of what learns: fp32 weights under autocast; under DeepSpeed 16-bit weights with an fp32 copy."""
    if stage.precision == "fp32" or stage.zero_stage == 0:
        return Bytes(weights=4, gradients=4, optimizer=8)  # AdamW's two averages
    return Bytes(weights=2, gradients=2, optimizer=12)  # and the fp32 copy


def loaded_bytes(stage: StageSpec) -> int:
    """Bytes per parameter as the model is loaded (``state.initial.weights_dtype``)."""
    return 2 if stage.precision != "fp32" and (stage.zero_stage or stage.lora) else 4


def frozen_bytes(stage: StageSpec) -> float:
    """Bytes per parameter that does not learn: as it was loaded, or quantised."""
    if stage.lora and stage.lora.load_in:  # with the scales of each block
        return 0.6 if stage.lora.load_in == "4bit" else 1.1
    return float(loaded_bytes(stage))


def trained_parameters(shape: ModelShape, stage: StageSpec) -> dict[str, int]:
    """Trained parameters of each part that learns in ``stage`` (adapters only, under LoRA)."""
    counts: dict[str, int] = {part: shape.parameters(part) for part in stage.train}
    if stage.lora and "llm" in counts:
        counts["llm"] = shape.llm.adapter_parameters(stage.lora.rank)
    if "vision_tower" in counts:
        counts["vision_tower"] = shape.tower.learnable
    return counts


def frozen_parameters(shape: ModelShape, stage: StageSpec) -> int:
    """Parameters of the model itself that ``stage`` leaves as they are."""
    adapted = "llm" if stage.lora else None
    return shape.total - sum(n for part, n in trained_parameters(shape, stage).items() if part != adapted)


def memory_gib(shape: ModelShape, stage: StageSpec, per_device: int, processes: int) -> float:
    """Memory of one GPU at its peak, GiB."""
    held = _state_bytes(shape, stage, processes) + _reference_bytes(shape, stage)
    return (held + per_device * rows_of_sample(stage) * _sample_bytes(shape, stage)) / GIB + OVERHEAD_GIB


def rows_of_sample(stage: StageSpec) -> int:
    """Rows that a sample puts into one forward pass: both replies of a pair, every turn of every attempt."""
    if stage.kind == "grpo":
        return 2 * (stage.reinforce or ReinforceSpec()).group
    return 2 if stage.kind == "dpo" else 1


def _reference_bytes(shape: ModelShape, stage: StageSpec) -> float:
    """The weights that the stage began with; under adapters they are the model's own."""
    distant = stage.kind == "dpo" or (stage.kind == "grpo" and (stage.reinforce or ReinforceSpec()).kl > 0)
    return float(shape.total * bytes_of(stage).weights) if distant and stage.lora is None else 0.0


def _state_bytes(shape: ModelShape, stage: StageSpec, processes: int) -> float:
    """Weights, gradients and optimizer state on one GPU; ZeRO divides the last one first (stages 1, 2, 3)."""
    size, trained = bytes_of(stage), sum(trained_parameters(shape, stage).values())
    weights = trained * size.weights + frozen_parameters(shape, stage) * frozen_bytes(stage)
    gradients, optimizer = float(trained * size.gradients), float(trained * size.optimizer)
    if stage.zero_stage >= 1:
        optimizer /= processes
    if stage.zero_stage >= 2:
        gradients /= processes
    if stage.zero_stage == 3:
        weights /= processes
        weights += 2 * size.weights * shape.llm.layer_parameters  # the layer in use, and the next one
    if stage.offload in ("optimizer", "all"):
        optimizer = 0
    if stage.offload == "all":
        weights = 2 * size.weights * shape.llm.layer_parameters
    return weights + gradients + optimizer


def _sample_bytes(shape: ModelShape, stage: StageSpec) -> float:
    """Activations of one sample of ``max_length`` tokens with `IMAGES` images, and its logits.

    Counted in what autograd keeps of transformers' layers. A decoder layer keeps 12 vectors of its width: of
    both norms the fp32 input (2), the result and the weighted result; q, k, v and the attention's result. Its
    gated MLP keeps gate, activation, up and their product (4). Adapters keep the dropped-out input of each
    linear layer. A tower's layer keeps 8, and its MLP input, sigmoid and product of quick GELU (3).
    """
    number = 4 if stage.precision == "fp32" else 2
    llm, tower = shape.llm, shape.tower
    widths, inner = (18, 5) if stage.lora else (12, 4)
    llm_layer = number * (widths * llm.width + inner * llm.mlp)
    tower_layer = number * (8 * tower.width + 3 * tower.mlp)
    # Of a recomputed layer its input is kept; and one layer in full, while it is recomputed.
    every = recompute_of(stage)
    again = 1 / every if every else 0.0
    per_token = llm.layers * (again * number * llm.width + (1 - again) * llm_layer) + bool(every) * llm_layer
    per_patch = tower.layers * (again * number * tower.width + (1 - again) * tower_layer)
    per_patch += bool(every) * tower_layer
    per_token += number * 5 * llm.width  # the embeddings and the last norm
    if "vision_tower" not in stage.train:
        per_patch = tower_layer  # runs without gradients: one layer at a time
    return (
        stage.max_length * (per_token + logits_bytes(shape, stage)) + tower.most_patches(IMAGES) * per_patch
    )


def logits_bytes(shape: ModelShape, stage: StageSpec) -> float:
    """Of the logits and their gradient, bytes a token: the head runs where tokens are learned only."""
    number = 4 if stage.precision == "fp32" else 2
    return SUPERVISED * shape.llm.vocab * 2 * number


def flops_per_sample(shape: ModelShape, stage: StageSpec, tokens: float, images: float) -> float:
    """Floating-point operations of one sample, forward and backward, without recomputation."""
    llm = shape.llm
    matrices = llm.layers * llm.layer_parameters + llm.vocab * llm.width
    forward = 2 * matrices * tokens + 2 * llm.layers * llm.width * tokens**2  # causal attention: half of 4
    # Backward costs 2 forwards: one for the inputs' gradients, one for the weights'. A frozen language model
    # still computes the first, for the projector below it.
    backward = 2.0 if "llm" in stage.train and not stage.lora else 1.0
    learning = shape.tower.learnable if "vision_tower" in stage.train else 0
    # The whole tower runs forward (2 per weight); 4 more only where it learns. tokens + 1: the class token.
    read = shape.tower.tokens_of(images)
    seeing = (2 * shape.tower.parameters + 4 * learning) * (read * shape.tower.merge**2 + images)
    return forward * (1 + backward) + seeing + 6 * shape.parameters("projector") * read


def hours(
    shape: ModelShape, stage: StageSpec, samples: int, tokens: float, images: float, gpus: int, gpu: str
) -> float | None:
    """Hours on ``gpus`` of that kind at `UTILISATION`; None for a kind whose peak is not known.

    ``tokens`` of a sample include its padding. Gradient checkpointing costs a third more.
    """
    peak = peak_tflops(gpu)
    if peak is None:
        return None
    work = samples * flops_per_sample(shape, stage, tokens, images)
    # Forward and backward cost 1 + 2; the second forward makes it 4.
    every = recompute_of(stage)
    work *= 1 + 1 / (3 * every) if every else 1
    return work / (gpus * peak * 1e12 * UTILISATION) / 3600


def checkpoint_gib(shape: ModelShape, stage: StageSpec) -> float:
    """Disk of one checkpoint: the stage's model (`model_gib`) and the state that a resumed run needs.

    DeepSpeed writes the weights a second time, frozen ones included, beside the optimizer's state.
    """
    size, trained = bytes_of(stage), sum(trained_parameters(shape, stage).values())
    again = (trained if stage.lora else shape.total) if stage.zero_stage else 0
    return model_gib(shape, stage) + (again * size.weights + trained * size.optimizer) / GIB


def model_gib(shape: ModelShape, stage: StageSpec) -> float:
    """Disk of a stage's model: the whole, or what was trained of it (a projector, an adapter)."""
    part_only = stage.lora is not None or stage.train == ("projector",)
    saved = sum(trained_parameters(shape, stage).values()) if part_only else shape.total
    return saved * bytes_of(stage).weights / GIB


def loading_gib(shape: ModelShape, stage: StageSpec, local_processes: int, processes: int) -> float:
    """Host memory of one machine while its processes load the weights: each holds all of them once.

    Under ZeRO-3 the first process reads one tensor at a time (the embeddings are the largest), and with
    offload=all every process keeps its share in host memory. Quantised weights too go to the GPU one by one.
    """
    size = loaded_bytes(stage)
    if stage.lora and stage.lora.load_in:
        return local_processes * shape.llm.vocab * shape.llm.width * size / GIB
    if stage.zero_stage == 3 and processes > 1:
        offloaded = shape.total / processes if stage.offload == "all" else 0.0
        return (shape.llm.vocab * shape.llm.width + local_processes * offloaded) * size / GIB
    return local_processes * shape.total * size / GIB
