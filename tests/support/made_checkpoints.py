"""Tiny checkpoints to take apart, rename and damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from viscot_core.errors import CheckpointError
from viscot_core.models.checkpoint import Checkpoint, open_checkpoint
from viscot_core.tensors import open_weights

Tensors = dict[str, torch.Tensor]


def tensors_of(folder: Path) -> Tensors:
    """Every tensor of a checkpoint in memory, by its stored name."""
    return {name: stored.read().clone() for name, stored in open_weights(folder).items()}


def save(folder: Path, tensors: Tensors) -> None:
    """Write them in the place of the checkpoint's own."""
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **changes: Any) -> None:
    """Set fields of ``config.json``; None takes one away."""
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def refused(folder: Path) -> str:
    """The one sentence that says why a checkpoint is not read."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).require_whole()
    message = str(caught.value)
    assert "\n" not in message
    return message


def same_model(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two checkpoints hold the same tensors."""
    assert a.tensors.keys() == b.tensors.keys()
    return all(torch.equal(source.read(), b.tensors[name].read()) for name, source in a.tensors.items())
