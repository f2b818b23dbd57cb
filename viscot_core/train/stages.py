"""What trains in each stage, and with which learning rate."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from viscot_core.train.schema import Part, StageSpec

log = logging.getLogger(__name__)

PART_PREFIXES: dict[Part, tuple[str, ...]] = {
    "vision_tower": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "llm": ("model.language_model.", "lm_head."),
}


def part_of(name: str) -> Part | None:
    """The part a parameter of ``LlavaForConditionalGeneration`` belongs to."""
    return next((part for part, starts in PART_PREFIXES.items() if name.startswith(starts)), None)


def freeze_for(model: nn.Module, stage: StageSpec, feature_layer: int) -> dict[str, int]:
    """Let only the stage's parts learn; returns the number of trainable values per part.

    Of the tower, ``post_layernorm`` and the layers above the one that is read never get a gradient: they stay frozen.
    """
    counts = dict.fromkeys(PART_PREFIXES, 0)
    last = _last_read_layer(model, feature_layer)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad = part in stage.train and not _unread(name, last)
        if part and parameter.requires_grad:
            counts[part] += parameter.numel()
    log.info("stage %s trains %s", stage.kind, {part: f"{n:,}" for part, n in counts.items()})
    return {str(part): count for part, count in counts.items()}


def _last_read_layer(model: Any, feature_layer: int) -> int:
    layers = int(model.config.vision_config.num_hidden_layers)
    return feature_layer - 1 if feature_layer >= 0 else layers + feature_layer


def _unread(name: str, last: int) -> bool:
    if "vision_tower.post_layernorm" in name:
        return True
    if "vision_tower.encoder.layers." not in name:
        return False
    return int(name.split("encoder.layers.")[1].split(".")[0]) > last


def parameter_groups(model: nn.Module, stage: StageSpec) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: by part's learning rate, no decay on norms and biases."""
    rates: dict[Part | None, float] = {
        "projector": stage.projector_lr or stage.learning_rate,
        "vision_tower": stage.vision_tower_lr or stage.learning_rate,
        "llm": stage.learning_rate,
        None: stage.learning_rate,
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = rates[part_of(name.removeprefix("llava."))]
        decay = 0.0 if parameter.ndim < 2 or "norm" in name else stage.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
