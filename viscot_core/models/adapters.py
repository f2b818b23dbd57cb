"""LoRA adapters, merged while a checkpoint is read: peft's, and upstream's with ``non_lora_trainables``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.base import Family
from viscot_core.families.checkpoint import Delta
from viscot_core.tensors import Stored, open_file

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_WHOLE = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
_READ = {
    *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "init_lora_weights"),
    # Their tensors are in the adapter's file, and every tensor there is placed or refused.
    *("bias", "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform"),
}
_SAYS_NOTHING = {
    *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout"),
    *("layers_pattern", "megatron_config", "megatron_core", "qalora_group_size", "runtime_config"),
    *("eva_config", "ensure_weight_tying"),
}
"""Fields of peft's config that change no merged weight; any other that is set, known or new, is refused."""
_STARTS = ("none", "true", "false", "gaussian", "eva", "orthogonal")
"""Ways of starting an adapter that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take
something out of it: base + B A is not their model.
"""
_PAIR = re.compile(r"\.lora_([AB])(?:\.default)?\.weight$")


def is_adapter(path: Path) -> bool:
    """Whether a folder holds a LoRA adapter."""
    return (path / CONFIG).exists()


def _config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if config.get("peft_type", "LORA") != "LORA":
            raise CheckpointError(f"{path} holds a {config['peft_type']} adapter; viscot merges LoRA only.")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path / CONFIG} is damaged ({error}); copy the adapter again.") from error
    start = str(config.get("init_lora_weights")).lower()
    if start not in _STARTS:
        raise CheckpointError(
            f"{path} began as {start}, which changes the base model itself; convert it to a plain LoRA with "
            "peft (save_pretrained with path_initial_model_for_weight_conversion) first."
        )
    if unread := [key for key, value in config.items() if value and key not in _READ | _SAYS_NOTHING]:
        raise CheckpointError(
            f"{path} uses {', '.join(unread)}, which viscot does not merge; merge it with peft first."
        )
    return config


def base_name(path: Path) -> str:
    """The base model that an adapter's config names."""
    name = _config(path).get("base_model_name_or_path")
    if not name:
        raise CheckpointError(f"{path / CONFIG} names no base model (base_model_name_or_path); add it.")
    return str(name)


def whole_tensors(path: Path) -> dict[str, Stored]:
    """What upstream's training saved beside the adapter, by its name in the original layout: the projector,
    and the vision tower where that was trained.
    """
    file = next((path / name for name in _WHOLE if (path / name).exists()), None)
    return {} if file is None else {_bare(name): stored for name, stored in open_file(file).items()}


def changes(path: Path, family: Family) -> dict[str, Delta | Stored]:
    """What an adapter does, by module name: a ``Delta`` to add, or a tensor in the base's place."""
    rank, scale = _rank_and_scale(path)
    file = next((path / name for name in _WEIGHTS if (path / name).exists()), None)
    if file is None:
        raise CheckpointError(
            f"{path} holds no adapter weights ({' or '.join(_WEIGHTS)}); copy the adapter again."
        )
    tensors = open_file(file) | whole_tensors(path)
    found: dict[str, Delta | Stored] = {}
    for name, stored in tensors.items():
        pair = _PAIR.search(name)
        if pair is None:
            if "lora_" in name:
                raise CheckpointError(
                    f"{stored.file}: '{name}' is a kind of LoRA viscot does not merge; use peft."
                )
            found[_module(name, family)] = stored
        elif pair.group(1) == "A":
            partner = name.replace(".lora_A", ".lora_B")
            if partner not in tensors:
                raise CheckpointError(f"{stored.file} lacks '{partner}'; copy the adapter again.")
            if stored.shape[0] != rank:
                raise CheckpointError(
                    f"{stored.file}: '{name}' has the rank {stored.shape[0]} and {CONFIG} says {rank}; take "
                    "both from the same adapter."
                )
            found[_module(_PAIR.sub(".weight", name), family)] = Delta(stored, tensors[partner], scale)
    return found


def _rank_and_scale(path: Path) -> tuple[int, float]:
    config = _config(path)
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path / CONFIG} does not state the rank and its scale ({error!r}); copy the adapter again."
        ) from error


def _bare(name: str) -> str:
    """A tensor's name without what peft puts before it."""
    return re.sub(r"^base_model\.model\.", "", name)


def _module(name: str, family: Family) -> str:
    """An adapter's name as a module name of its base's family."""
    # Levels that peft puts into names, around modules it copies and layers it adapts.
    name = re.sub(r"\.(?:modules_to_save\.default|base_layer)\.", ".", _bare(name))
    return family.adapted_module(name)
