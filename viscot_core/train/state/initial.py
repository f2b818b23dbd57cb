"""A run's tokenizer and initial weights: from a checkpoint, from a base model and a tower, or random."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from viscot_core.families.checkpoint import Checkpoint
from viscot_core.families.manifest import Manifest
from viscot_core.families.table import training_from_parts, training_of
from viscot_core.families.training import Training, TrainingProcessor
from viscot_core.models.load import build
from viscot_core.train import ranks
from viscot_core.train.recipe.base_model import open_base
from viscot_core.train.recipe.schema import Recipe, StageSpec

_SIXTEEN_BIT = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Run:
    """What all stages share. ``base``: where the weights come from; None for random weights.

    ``model`` is None until `load`.
    """

    folder: Path
    recipe: Recipe
    root: Path
    images: Path
    training: Training
    processor: TrainingProcessor
    base: Checkpoint | None
    model: Any = None

    @property
    def text_rows(self) -> int | None:
        """Ids from this number on (the image token, padding) are never generated; None: all ids are text."""
        return None if self.base is None else self.base.text_rows

    def processor_for(self, stage: StageSpec) -> TrainingProcessor:
        """In the wording of a stage: bare captions in pretrain, the model's own otherwise."""
        usual = "plain" if stage.kind == "pretrain" else self.recipe.model.template
        return self.processor.under(stage.template or usual)

    def manifest(self) -> Manifest:
        """The manifest of every checkpoint of this run."""
        model = self.recipe.model
        turn_tokens = self.base.manifest.turn_tokens if self.base else model.turn_tokens
        return Manifest(
            name=self.recipe.name,
            template=self.processor.under(model.template).wording,
            turn_tokens=turn_tokens,
            image_side=self.processor.image_side,
            box_format=self.processor.boxes.name.partition("@")[0],
            policy=model.policy or (self.base.manifest.policy if self.base else None),
        )


def start(folder: Path, recipe: Recipe, stage: StageSpec) -> Run:
    """Tokenizer and initial weights, the same on every start; ``stage`` says how they are held."""
    run = open_run(folder, recipe)
    load(run, stage)
    return run


def open_run(folder: Path, recipe: Recipe) -> Run:
    """The run without its weights: headers and the tokenizer are read."""
    root = Path(recipe.data.root or "")
    images = Path(recipe.data.images or root)
    if recipe.model.scratch:
        from viscot_core.train.tiny.own_data import own_processor

        processor = own_processor(folder, recipe, root)
        return Run(folder, recipe, root, images, training_from_parts(), processor, None)
    base = open_base(recipe.model)
    training = training_of(base, recipe.name)
    return Run(folder, recipe, root, images, training, training.processor(base, recipe.model), base)


def load(run: Run, stage: StageSpec) -> None:
    """The initial weights, held as ``stage`` needs them; under ZeRO-3 only this process's share."""
    recipe, base = run.recipe, run.base
    torch.manual_seed(recipe.seed)  # a projector that is not given starts at random
    load_in = stage.lora.load_in if stage.lora else None
    if base is None:
        from viscot_core.train.tiny.own_data import random_model

        run.model = random_model(recipe, run.processor)
    elif stage.zero_stage == 3 and ranks.count() > 1:
        from viscot_core.train.state.zero import build_divided

        run.model = build_divided(run.training, base, recipe.model, stage, weights_dtype(stage))
    else:
        run.model = build(base, _device(load_in), weights_dtype(stage), load_in, recipe.model.attention)
    # A batch without images on one rank only would hang DDP and abort ZeRO: the tower must run on every rank.
    run.training.allow_text_only_batches(run.model, run.processor)
    disable_progress_bar()


def weights_dtype(stage: StageSpec) -> torch.dtype:
    """fp32 under autocast; 16 bit where DeepSpeed keeps an fp32 copy, or where adapters learn instead."""
    held_16 = stage.precision != "fp32" and (stage.zero_stage > 0 or stage.lora is not None)
    return _SIXTEEN_BIT[stage.precision] if held_16 else torch.float32


def mixed_precision(stage: StageSpec, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast as the steps of a stage have it; DeepSpeed has none, its weights are 16 bit.

    (accelerate gives it to the forward pass of the trained model, and to nothing else.)
    """
    mixed = stage.precision != "fp32" and not stage.zero_stage
    return torch.autocast(device.type, _SIXTEEN_BIT.get(stage.precision), enabled=mixed)


def _device(load_in: str | None) -> str:
    """DeepSpeed and the Trainer place the weights; a quantised model is on its GPU from the start."""
    return f"cuda:{torch.cuda.current_device()}" if load_in and torch.cuda.is_available() else "cpu"
