"""How a stage's model is written: whole, as adapters, or, where a base model is named, as a projector
only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from viscot_core.families.llava import layouts
from viscot_core.files import atomic_write
from viscot_core.train.checkpoints import load_weights, save_projector
from viscot_core.train.foundation import FoundationModel
from viscot_core.train.schema import StageSpec
from viscot_core.train.start import Run

HEADS = "heads.pt"
BASE = "viscot-base"


def save_stage(
    state: Run, stage: StageSpec, model: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """A checkpoint's model: what `load_stage` reads back and ``infer`` and ``bench`` take as it is."""
    if isinstance(model, FoundationModel):
        torch.save(model.heads.state_dict(), folder / HEADS)
        model = model.llava
    save_model(state, stage, model, folder, weights)


def load_stage(model: Any, folder: Path) -> None:
    """Weights of a checkpoint of this stage."""
    if isinstance(model, FoundationModel):
        model.heads.load_state_dict(torch.load(folder / HEADS, weights_only=True))
        model = model.llava
    load_weights(model, folder)


def save_model(
    state: Run, stage: StageSpec, model: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """The folder of a model that ``infer`` and ``bench`` take; the manifest is written last.

    ``weights`` are the gathered ones under ZeRO; None takes the model's own. Module names are written, never
    transformers' older on-disk ones: resume would silently not restore the language model.
    """
    if isinstance(model, FoundationModel):
        model = model.llava
    folder.mkdir(parents=True, exist_ok=True)
    projector_only = (
        stage.train == ("projector",) and state.base is not None and bool(state.recipe.model.base_llm)
    )
    if stage.lora:
        model.save_pretrained(folder, state_dict=weights)
        _name_base(state, folder, weights if weights is not None else model.state_dict())
    elif not projector_only:
        if weights is not None and state.model.config.tie_word_embeddings:
            # Gathered under ZeRO, the tied head is a second copy of the embeddings.
            weights = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
        model.save_pretrained(folder, state_dict=weights, save_original_format=False)
    if "projector" in stage.train:
        save_projector(weights if weights is not None else model.state_dict(), folder)
    if projector_only:
        _write_projector_config(state, folder)
    state.tokens.hf.save_pretrained(folder)
    state.manifest().save(folder)


def _write_projector_config(state: Run, folder: Path) -> None:
    """The config of a folder that holds a projector only: it names the base, as LLaVA's stage 1 does."""
    assert state.base is not None
    config = layouts.config_to_llava(state.model.config, state.base.text_rows, "float32")
    config |= {"_name_or_path": str(state.recipe.model.base_llm)}
    with atomic_write(folder / "config.json") as file:
        json.dump(config, file, indent=1)


def _name_base(state: Run, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Say in the adapter's config what it adapts: a checkpoint, or the base model under its projector.

    A base model is no LLaVA checkpoint by itself, so the folder `BASE` inside the adapter's holds the
    projector and names the rest.
    """
    name = state.recipe.model.checkpoint
    if name is None:
        (folder / BASE).mkdir(exist_ok=True)
        save_projector(weights, folder / BASE)
        _write_projector_config(state, folder / BASE)
        name = BASE
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(name)}
    with atomic_write(path) as file:
        json.dump(config, file, indent=1)
