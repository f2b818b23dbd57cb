"""Adapters on a model that transformers loads: merged into its parameters in memory, as peft merges them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.checkpoint import Checkpoint, Delta


def processor_folder(checkpoint: Checkpoint) -> Path:
    """Where a checkpoint's processor is: its own folder, or that of its adapter's base."""
    own = checkpoint.path
    return own if (own / "tokenizer_config.json").exists() else checkpoint.tokenizer_folder


def apply_changes(model: Any, checkpoint: Checkpoint) -> None:
    """Everything that the checkpoint's adapters do, one parameter after the other.

    Raises:
        CheckpointError: a parameter that the model lacks, or of another shape; a quantised one.
    """
    parameters = dict(model.named_parameters()) if checkpoint.changes else {}
    for name, changes in checkpoint.changes.items():
        if name not in parameters:
            raise CheckpointError(
                f"the adapter in {checkpoint.path} changes '{name}', which its base "
                f"{checkpoint.tokenizer_folder} lacks."
            )
        weight = parameters[name].data
        if not weight.is_floating_point():
            raise CheckpointError(
                f"{checkpoint.path} is an adapter, and its base is quantised as it is loaded; merge it with "
                "peft first, or leave out --load-in."
            )
        for change in changes:
            if isinstance(change, Delta):
                change.require_fit(tuple(weight.shape))
                weight.copy_(change.add_to(weight.cpu()))
            elif change.shape != tuple(weight.shape):
                raise CheckpointError(
                    f"{change.file}: '{change.name}' has the shape {list(change.shape)} and its base "
                    f"{list(weight.shape)}; the adapter belongs to another base model."
                )
            else:
                weight.copy_(change.read())
