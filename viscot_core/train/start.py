"""A run's tokenizer and first weights: from nothing, from a base model and a tower, from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from viscot_core.data.annotations import Conversation, Rows
from viscot_core.data.encode import training_turns
from viscot_core.errors import UsageError
from viscot_core.families.checkpoint import Checkpoint
from viscot_core.families.llava.chat import ChatTokenizer
from viscot_core.families.llava.family import load_tokens
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.families.manifest import Manifest
from viscot_core.models.load import build
from viscot_core.train import ranks
from viscot_core.train.assembled import open_base
from viscot_core.train.divided import build_divided, divides
from viscot_core.train.mixed import allow_mixed_batches
from viscot_core.train.schema import Recipe, StageSpec

TOKENIZER_ROWS = 4000
"""Rows whose words the scratch tokenizer is trained on."""


@dataclass
class Run:
    """What all stages share. ``base`` is where the weights come from; None for a model from nothing.

    ``model`` is there from `load` on.
    """

    folder: Path
    recipe: Recipe
    root: Path
    images: Path
    tokens: ChatTokenizer
    base: Checkpoint | None
    model: Any = None

    @property
    def grid(self) -> int:
        """Patches along a side."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def side(self) -> int:
        """Side of the tower's input, pixels."""
        return int(self.model.config.vision_config.image_size)

    def manifest(self) -> Manifest:
        """The manifest of every checkpoint of this run."""
        model = self.recipe.model
        turn_tokens = self.base.manifest.turn_tokens if self.base else model.turn_tokens
        return Manifest(
            name=self.recipe.name, template=model.template, turn_tokens=turn_tokens, image_side=self.side
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
        return Run(folder, recipe, root, images, _own_tokens(folder, recipe, root), None)
    base = open_base(recipe.model)
    return Run(folder, recipe, root, images, load_tokens(base), base)


def load(run: Run, stage: StageSpec) -> None:
    """The initial weights, held as ``stage`` needs them; under ZeRO-3 only this process's share."""
    recipe, base = run.recipe, run.base
    torch.manual_seed(recipe.seed)  # a projector that is not given starts at random
    load_in = stage.lora.load_in if stage.lora else None
    if base is None:
        run.model = _from_nothing(recipe, run.tokens)
    elif divides(stage):
        run.model = build_divided(base, recipe.model, stage, weights_dtype(stage))
    else:
        run.model = build(base, _device(load_in), weights_dtype(stage), load_in, recipe.model.attention)
    allow_mixed_batches(run.model)
    disable_progress_bar()


def weights_dtype(stage: StageSpec) -> torch.dtype:
    """fp32 under autocast; 16 bit where DeepSpeed keeps the fp32 copy or the base is frozen under
    adapters.
    """
    held_16 = stage.precision != "fp32" and (stage.zero_stage > 0 or bool(stage.lora and stage.lora.load_in))
    if not held_16:
        return torch.float32
    return torch.float16 if stage.precision == "fp16" else torch.bfloat16


def _device(load_in: str | None) -> str:
    """DeepSpeed and the Trainer place the weights; a quantised model is on its GPU from the start."""
    return f"cuda:{torch.cuda.current_device()}" if load_in and torch.cuda.is_available() else "cpu"


def _from_nothing(recipe: Recipe, tokens: ChatTokenizer) -> Any:
    model = recipe.model
    assert model.scratch is not None
    return build_model(
        model.scratch,
        tokens.hf,
        feature_layer=model.feature_layer,
        attention=model.attention,
        seed=recipe.seed,
    )


def _own_tokens(folder: Path, recipe: Recipe, root: Path) -> ChatTokenizer:
    """The tokenizer of a model from nothing, trained by the first rank and kept in the run folder."""
    scratch = recipe.model.scratch
    assert scratch is not None
    home = folder / "tokenizer"
    with ranks.first_alone():
        if not home.exists():
            tokenizer = _make_tokenizer(recipe, root)
            tokenizer.save_pretrained(folder / "tokenizer.partial")
            (folder / "tokenizer.partial").replace(home)
    from transformers import AutoTokenizer

    patches = (scratch.image_side // scratch.patch) ** 2
    tokenizer = AutoTokenizer.from_pretrained(home)
    return ChatTokenizer(tokenizer, image_tokens=patches, turn_tokens=recipe.model.turn_tokens)


def _make_tokenizer(recipe: Recipe, root: Path) -> Any:
    scratch = recipe.model.scratch
    if scratch is None:
        raise UsageError("Only a model from scratch trains a tokenizer.")
    template = TEMPLATES[recipe.model.template]
    files = dict.fromkeys(name for stage in recipe.stages for name in stage.data_files)
    rows = [row for name in files for row in islice(Rows(root / name, Conversation), TOKENIZER_ROWS)]
    texts = [c.text for row in rows for c in render(training_turns(row.turns), template).chunks if c.text]
    return train_tokenizer(texts, vocab_size=scratch.vocab_size, max_positions=scratch.max_positions)
