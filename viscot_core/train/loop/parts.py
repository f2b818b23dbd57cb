"""What trains in each stage, and with which learning rate."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from viscot_core.families.llava.training import (
    LORA_TARGETS,
    LORA_TRAINED_WHOLE,
    PARTS,
    gets_gradient,
    part_of,
    tower_layer,
)
from viscot_core.train.recipe.schema import LoraSpec, StageSpec


def freeze_for(model: Any, stage: StageSpec) -> None:
    """Let only the stage's parts learn, and of them only what gets a gradient."""
    for name, parameter in model.named_parameters():
        part = part_of(name)
        whole = part in stage.train and not (stage.lora and part == "llm")  # adapters learn in its place
        parameter.requires_grad = whole and gets_gradient(name, model.config)


def learning(model: nn.Module) -> dict[str, int]:
    """The number of values that learn in each part, adapters counted where they stand."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part and parameter.requires_grad:
            counts[part] += math.prod(_shape(parameter))
    return counts


def parameter_groups(model: nn.Module, stage: StageSpec) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: by part and learning rate, no decay on norms, biases,
    vectors. Other rates make the same groups, so that a run may go on with them.

    With ``vision_layer_decay`` each layer of the tower learns slower than the one above it, its embeddings
    slowest.
    """
    top = _top_layer(model)
    groups: dict[tuple[str | None, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if len(_shape(parameter)) < 2 or "norm" in name else stage.weight_decay
        groups.setdefault((part_of(name), _rate(name, stage, top), decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (_, rate, decay), p in groups.items()]


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The whole shape, also while ZeRO-3 keeps only a share of the parameter here (its own shape is then
    [0]).
    """
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _rate(name: str, stage: StageSpec, top: int) -> float:
    part = part_of(name)
    if part == "projector":
        return stage.projector_lr or stage.learning_rate
    if part != "vision_tower":
        return stage.learning_rate
    rate = stage.vision_tower_lr or stage.learning_rate
    if stage.vision_layer_decay is None:
        return rate
    return rate * stage.vision_layer_decay ** (top - tower_layer(name))


def _top_layer(model: nn.Module) -> int:
    """The last layer of the tower that learns."""
    names = [n for n, p in model.named_parameters() if p.requires_grad and part_of(n) == "vision_tower"]
    return max((tower_layer(name) for name in names), default=-1)


def add_adapters(model: Any, lora: LoraSpec, stage: StageSpec) -> Any:
    """``model`` under LoRA on the language model's linear layers; the projector learns whole where it
    learns.
    """
    from peft import LoraConfig, get_peft_model

    if lora.load_in:
        from peft import prepare_model_for_kbit_training

        checkpointing = {"use_reentrant": False}
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=stage.gradient_checkpointing,
            gradient_checkpointing_kwargs=checkpointing,
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=LORA_TARGETS,
        modules_to_save=[name for part, name in LORA_TRAINED_WHOLE.items() if part in stage.train] or None,
    )
    return get_peft_model(model, config)
