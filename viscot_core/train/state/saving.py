"""How a stage's model is written and read: whole, as adapters, or, on a named base, as a projector only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from viscot_core.errors import CheckpointError
from viscot_core.families.training import Training
from viscot_core.files import atomic_write
from viscot_core.tensors import open_weights
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.state.initial import Run

ADAPTER = "adapter_model.safetensors"
BASE = "viscot-base"


def save_model(
    run: Run, stage: StageSpec, model: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """The folder of a model that ``infer`` and ``bench`` take; the manifest is written last.

    ``weights`` are the gathered ones under ZeRO; None takes the model's own. A whole model has the names that
    servers read; ``load_weights`` translates them back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    projector_only = (
        stage.train == ("projector",) and run.base is not None and bool(run.recipe.model.base_llm)
    )
    if stage.lora:
        model.save_pretrained(folder, state_dict=weights)
        _name_base(run, folder, weights if weights is not None else model.state_dict())
    elif not projector_only:
        _save_whole(run.training, model, folder, weights)
    if "projector" in stage.train:
        run.training.save_projector(weights if weights is not None else model.state_dict(), folder)
    if projector_only:
        _write_projector_config(run, folder)
    run.processor.save(folder, run.base.tokenizer_folder if run.base else None)
    run.manifest().save(folder)


def _save_whole(
    training: Training, model: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None
) -> None:
    tied = training.tied_tensors(model.config)  # gathered under ZeRO, a tied head is a second copy
    named = {
        training.stored_name(name): tensor
        for name, tensor in (weights if weights is not None else model.state_dict()).items()
        if name not in tied
    }
    # transformers would translate names it knows a second time.
    model.save_pretrained(folder, state_dict=named, save_original_format=False)


def _write_projector_config(run: Run, folder: Path) -> None:
    """The config of a folder that holds a projector only: it names the base."""
    assert run.base is not None
    base = str(run.recipe.model.base_llm)
    config = run.training.projector_config(run.model.config, run.base.text_rows, base)
    with atomic_write(folder / "config.json") as file:
        json.dump(config, file, indent=1)


def _name_base(run: Run, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Say in the adapter's config what it adapts: a checkpoint, or the base model under its projector.

    A base model is no LLaVA checkpoint by itself, so the folder `BASE` inside the adapter's holds the
    projector and names the rest.
    """
    name = run.recipe.model.checkpoint
    if name is None:
        (folder / BASE).mkdir(exist_ok=True)
        run.training.save_projector(weights, folder / BASE)
        _write_projector_config(run, folder / BASE)
        name = BASE
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(name)}
    with atomic_write(path) as file:
        json.dump(config, file, indent=1)


def load_weights(training: Training, model: Any, folder: Path) -> None:
    """Weights of a checkpoint of this run into ``model``: whole, a projector, or an adapter.

    `CheckpointError` names what is missing or does not fit; nothing is left at its old value in silence.
    """
    from safetensors.torch import load_file

    if (folder / ADAPTER).exists():
        from peft import set_peft_model_state_dict

        result = set_peft_model_state_dict(model, load_file(folder / ADAPTER))
        # An adapter holds no base weights, so the names that are missing say nothing.
        _refuse(folder, [], list(result.unexpected_keys))
        return
    whole = any(folder.glob("model*.safetensors"))
    if not whole and (stored := training.saved_projector(folder)) is not None:
        missing, unexpected = _put(model, {name: partial(_same, tensor) for name, tensor in stored.items()})
        _refuse(folder, [name for name in missing if training.parts.part_of(name) == "projector"], unexpected)
        return
    named = ((training.module_name(name), one.read) for name, one in open_weights(folder).items())
    missing, unexpected = _put(model, {name: read for name, read in named if name is not None})
    _refuse(folder, [name for name in missing if name not in training.tied_tensors(model.config)], unexpected)


def _put(model: Any, readers: Mapping[str, Callable[[], torch.Tensor]]) -> tuple[list[str], list[str]]:
    """Tensors into a model, whole or divided by ZeRO-3; names that were missing, and unknown ones."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):  # DeepSpeed has divided it
        from viscot_core.train.state.zero import fill

        return fill(model, readers)
    # Not strict: a tied head and, in a projector's folder, the rest of the model are rightly absent.
    # The callers refuse every other missing name.
    found = model.load_state_dict({name: read() for name, read in readers.items()}, strict=False)
    return found.missing_keys, found.unexpected_keys


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _refuse(folder: Path, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        raise CheckpointError(
            f"{folder} does not fit this recipe: missing {missing[:3]}, unexpected {unexpected[:3]}."
        )
