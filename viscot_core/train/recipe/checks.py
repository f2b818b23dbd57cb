"""Settings that are each valid but contradict one another. All are found, each with path, value and fix.

What also depends on the data and the machine is checked in ``plan/problems.py``.
"""

from __future__ import annotations

from collections import Counter

from viscot_core.errors import UsageError
from viscot_core.policies.dialects.known import dialect
from viscot_core.train.recipe.schema import (
    EvalSpec,
    ModelSpec,
    Recipe,
    ReinforceSpec,
    StageSpec,
    reads_whole_files,
)
from viscot_core.train.recipe.tiny_specs import ScratchSpec
from viscot_core.train.rewards.named import weighted


def contradictions(recipe: Recipe) -> list[str]:
    """One line per contradiction: ``dotted.path: value - what is wrong and what to do``."""
    problems = _model(recipe.model)
    for kind, count in Counter(stage.kind for stage in recipe.stages).items():
        if count > 1:
            problems.append(f"stages: {count} stages of kind '{kind}' - keep one of each kind")
    for stage in recipe.stages:
        where = f"stages.{stage.kind}"
        problems += [f"{where}.{text}" for text in _stage(stage) + _stage_and_model(stage, recipe.model)]
    return problems


def nearest_divisors(total: int, wanted: int) -> list[int]:
    """The divisors of ``total`` on both sides of ``wanted``, nearest first."""
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    below = [d for d in divisors if d <= wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return sorted(below + above, key=lambda d: abs(d - wanted))


def _model(model: ModelSpec) -> list[str]:
    starts = {"scratch": model.scratch, "checkpoint": model.checkpoint, "base_llm": model.base_llm}
    given = [name for name, value in starts.items() if value is not None]
    problems = []
    if len(given) != 1:
        what = " and ".join(given) if given else "nothing"
        problems.append(f"model: {what} given - give exactly one of base_llm, checkpoint, scratch")
    if model.base_llm and not model.vision_tower:
        problems.append("model.vision_tower: null - name the CLIP tower for base_llm")
    if not model.base_llm and model.vision_tower:
        problems.append(f"model.vision_tower: {model.vision_tower} - is only for base_llm; remove it")
    if not model.base_llm and model.projector:
        problems.append(f"model.projector: {model.projector} - is only for base_llm; remove it")
    if model.scratch:
        problems += _scratch(model.scratch, model.feature_layer)
    return problems


def _scratch(shape: ScratchSpec, feature_layer: int) -> list[str]:
    problems = []
    if shape.image_side % shape.patch:
        sides = ", ".join(
            str(n * shape.patch)
            for n in (shape.image_side // shape.patch, shape.image_side // shape.patch + 1)
            if n
        )
        problems.append(
            f"model.scratch.image_side: {shape.image_side} - must be a multiple of {shape.patch}: {sides}"
        )
    for part, width, heads in (
        ("vision", shape.vision_width, shape.vision_heads),
        ("llm", shape.llm_width, shape.llm_heads),
    ):
        if width % heads:
            options = " or ".join(map(str, nearest_divisors(width, heads)))
            problems.append(
                f"model.scratch.{part}_heads: {heads} - must divide {part}_width {width}: {options}"
            )
    kv_heads = shape.llm_kv_heads
    if kv_heads and shape.llm_heads % kv_heads:
        options = " or ".join(map(str, nearest_divisors(shape.llm_heads, kv_heads)))
        problems.append(
            f"model.scratch.llm_kv_heads: {kv_heads} - must divide llm_heads {shape.llm_heads}: {options}"
        )
    if not -shape.vision_layers - 1 <= feature_layer <= shape.vision_layers:
        problems.append(f"model.feature_layer: {feature_layer} - the tower has {shape.vision_layers} layers")
    return problems


def _stage(stage: StageSpec) -> list[str]:
    problems = []
    if (stage.epochs is None) == (stage.max_steps is None):
        value = "both given" if stage.epochs is not None else "null"
        problems.append(f"epochs: {value} - give either epochs or max_steps")
    per_device = stage.per_device_batch_size
    total = stage.global_batch_size
    if per_device and total % per_device:
        options = " or ".join(map(str, nearest_divisors(total, per_device)))
        problems.append(
            f"per_device_batch_size: {per_device} - must divide global_batch_size {total}: {options}"
        )
    for part in ("projector", "vision_tower"):
        rate = getattr(stage, f"{part}_lr")
        if rate is not None and part not in stage.train:
            problems.append(
                f"{part}_lr: {rate:g} - {part} is frozen here; add it to train or remove the rate"
            )
    if stage.vision_layer_decay is not None and "vision_tower" not in stage.train:
        problems.append(
            f"vision_layer_decay: {stage.vision_layer_decay:g} - vision_tower is frozen here; remove it"
        )
    if stage.offload != "none" and stage.zero_stage == 0:
        problems.append(f"offload: {stage.offload} - needs zero_stage 1, 2 or 3")
    if stage.offload == "all" and stage.zero_stage in (1, 2):
        problems.append(f"offload: all - zero_stage {stage.zero_stage} keeps whole weights; use 'optimizer'")
    if stage.compile and stage.zero_stage == 3:  # its hooks at every module would be compiled
        problems.append("compile: true - not under zero_stage 3, which is slower so; use zero_stage 0-2")
    if stage.kind != "foundation" and stage.foundation:
        problems.append(f"foundation: given - is only for stages of kind foundation, not {stage.kind}")
    problems += _replies(stage)
    return problems + (_eval(stage.kind, stage.eval) if stage.eval else [])


def _replies(stage: StageSpec) -> list[str]:
    """Of stages that learn from whole replies: preferences and rewards."""
    problems = []
    for kind, name in (("dpo", "preference"), ("grpo", "reinforce")):
        if stage.kind != kind and getattr(stage, name):
            problems.append(f"{name}: given - is only for stages of kind {kind}, not {stage.kind}")
    if stage.kind not in ("dpo", "grpo"):
        return problems
    if stage.packing:
        problems.append(f"packing: true - replies are padded in stages of kind {stage.kind}; remove it")
    if stage.zero_stage == 3:
        problems.append(f"zero_stage: 3 - a stage of kind {stage.kind} needs whole weights; use 0, 1 or 2")
    if stage.kind == "grpo" and stage.reinforce and not stage.reinforce.rewards:
        problems.append("reinforce.rewards: {} - name at least one; viscot rewards list shows them")
    if stage.reinforce:
        problems += _looking(stage.reinforce)
    for name, weight in (stage.reinforce.rewards if stage.reinforce else {}).items():
        try:
            weighted(name, weight)
        except UsageError as error:
            problems.append(f"reinforce.rewards.{name}: {weight:g} - {error}")
    return problems


def _looking(spec: ReinforceSpec) -> list[str]:
    given = [name for name in ("dialect", "looks") if getattr(spec, name) is not None]
    problems = [
        f"reinforce.{name}: given - is only for reinforce.strategy zoom; remove it"
        for name in given
        if spec.strategy != "zoom"
    ]
    if spec.dialect is not None:
        try:
            dialect(spec.dialect)
        except UsageError as error:
            problems.append(f"reinforce.dialect: {spec.dialect} - {error}")
    return problems


def _eval(kind: str, spec: EvalSpec) -> list[str]:
    problems = []
    if kind == "foundation":
        problems.append("eval: given - a foundation stage has no words to evaluate; remove it")
    if spec.file is not None and spec.split is not None:
        problems.append(f"eval.split: {spec.split:g} - eval.file names the held-out rows; give one of them")
    has_rows = spec.file is not None or spec.split is not None
    if not has_rows and (spec.bench is None or not spec.questions):
        problems.append("eval: no rows - give eval.file (--eval-data) or eval.split (--eval-split)")
    if spec.best == "loss" and not has_rows:
        problems.append("eval.best: loss - needs held-out rows; choose answers, box or iou")
    if spec.best != "loss" and not spec.questions:
        problems.append(f"eval.best: {spec.best} - needs eval.questions above 0")
    return problems


def _stage_and_model(stage: StageSpec, model: ModelSpec) -> list[str]:
    problems = []
    if stage.packing and model.attention == "flash_attention_2":
        problems.append("packing: true - is exact with model.attention sdpa or eager only")
    if stage.kind == "foundation" and model.scratch is None:
        problems.append("kind: foundation - is only for model.scratch; a pre-trained tower needs none")
    if model.scratch and stage.max_length > model.scratch.max_positions:
        problems.append(
            f"max_length: {stage.max_length} - "
            f"at most model.scratch.max_positions {model.scratch.max_positions}"
        )
    if stage.lora and model.scratch:
        problems.append("lora: given - a model from scratch has no weights to adapt; remove lora")
    if stage.lora and "llm" not in stage.train:
        problems.append("lora: given - adapts the language model; add llm to train")
    if stage.lora and "vision_tower" in stage.train:  # adapters freeze it, and are saved without it
        problems.append("train: vision_tower - stays frozen under lora; remove it from train")
    if stage.lora and stage.lora.load_in and stage.zero_stage == 3:
        problems.append(f"lora.load_in: {stage.lora.load_in} - cannot be sharded; use zero_stage 0-2")
    if not reads_whole_files(stage, model):
        tiny = [field for field in ("token_weights", "guide_attention") if getattr(stage, field)]
        problems += [
            f"{field}: given - needs model.scratch (or template tiny), packing false and group_by none"
            for field in tiny
        ]
    if stage.precision == "fp16" and model.scratch:
        problems.append("precision: fp16 - a model from scratch needs bf16 or fp32")
    return problems
