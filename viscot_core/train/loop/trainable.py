"""What trains in a stage, and at which rate: frozen parameters, optimizer groups, adapters."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from viscot_core.families.training import Training
from viscot_core.train.recipe.schema import PARTS, LoraSpec, StageSpec


def freeze_for(training: Training, model: Any, stage: StageSpec) -> None:
    """Let only the stage's parts learn, and of them only what gets a gradient."""
    for name, parameter in model.named_parameters():
        part = training.parts.part_of(name)
        whole = part in stage.train and not (stage.lora and part == "llm")  # adapters learn in its place
        parameter.requires_grad = whole and training.gets_gradient(name, model.config)


def learning(training: Training, model: nn.Module) -> dict[str, int]:
    """The number of values that learn in each part, adapters counted where they stand."""
    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = training.parts.part_of(name)
        if part and parameter.requires_grad:
            counts[part] += math.prod(_shape(parameter))
    return counts


def parameter_groups(training: Training, model: nn.Module, stage: StageSpec) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: by part and learning rate; norms, biases and vectors do
    not decay. Other rates make the same groups, so that a run can resume with them.

    With ``vision_layer_decay`` each layer of the tower learns slower than the one above it, its embeddings
    slowest.
    """
    top = _top_layer(training, model)
    groups: dict[tuple[str | None, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if len(_shape(parameter)) < 2 or "norm" in name else stage.weight_decay
        kind = training.parts.part_of(name), _rate(training, name, stage, top), decay
        groups.setdefault(kind, []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (_, rate, decay), p in groups.items()]


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The whole shape: under ZeRO-3 a process holds a share only, and the parameter's shape is ``[0]``."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _rate(training: Training, name: str, stage: StageSpec, top: int) -> float:
    part = training.parts.part_of(name)
    if part == "projector":
        return stage.projector_lr or stage.learning_rate
    if part != "vision_tower":
        return stage.learning_rate
    rate = stage.vision_tower_lr or stage.learning_rate
    if stage.vision_layer_decay is None:
        return rate
    return rate * stage.vision_layer_decay ** (top - training.tower_layer(name))


def _top_layer(training: Training, model: nn.Module) -> int:
    """The last layer of the tower that learns."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    tower = [name for name in names if training.parts.part_of(name) == "vision_tower"]
    return max((training.tower_layer(name) for name in tower), default=-1)


def add_adapters(training: Training, model: Any, lora: LoraSpec, stage: StageSpec) -> Any:
    """``model`` with LoRA on the language model's linear layers; a projector that learns is trained whole."""
    from peft import LoraConfig, get_peft_model

    # For a quantised base: peft freezes it, casts what is not quantised to fp32 and, with checkpointing,
    # lets the inputs require a gradient.
    if lora.load_in:
        from peft import prepare_model_for_kbit_training

        checkpointing = {"use_reentrant": False}
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=bool(stage.gradient_checkpointing),
            gradient_checkpointing_kwargs=checkpointing,
        )
    whole = [name for part in stage.train for name in training.trained_whole(part, model)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=training.lora_targets,
        modules_to_save=whole or None,
    )
    # peft makes adapters of 16-bit weights fp32. ZeRO keeps fp32 copies itself, and ZeRO-3 cannot divide
    # adapters of one type and a projector of another in one group.
    model = get_peft_model(model, config, autocast_adapter_dtype=stage.zero_stage == 0)
    if stage.zero_stage == 0:  # nor does it look at parts that are trained whole
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model
