"""A model that starts at random, and its tokenizer, trained on the recipe's own rows."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from viscot_core.data.annotations import Conversation, Rows
from viscot_core.data.encode import training_turns
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.train import ranks
from viscot_core.train.recipe.schema import Recipe, ScratchSpec

TOKENIZER_ROWS = 4000
"""Rows of each file whose words the tokenizer is trained on."""


def random_model(recipe: Recipe, tokens: ChatTokenizer) -> Any:
    """The recipe's shape with random weights, the same for the same seed."""
    model = recipe.model
    assert model.scratch is not None
    return build_model(
        model.scratch,
        tokens.hf,
        feature_layer=model.feature_layer,
        attention=model.attention,
        seed=recipe.seed,
    )


def own_tokens(folder: Path, recipe: Recipe, root: Path) -> ChatTokenizer:
    """The tokenizer, trained by the first rank and kept in the run folder ``folder``."""
    from transformers import AutoTokenizer

    scratch = recipe.model.scratch
    assert scratch is not None
    home = folder / "tokenizer"
    with ranks.first_alone():
        if not home.exists():
            _trained(recipe, scratch, root).save_pretrained(folder / "tokenizer.partial")
            (folder / "tokenizer.partial").replace(home)
    patches = (scratch.image_side // scratch.patch) ** 2
    tokenizer = AutoTokenizer.from_pretrained(home)
    return ChatTokenizer(tokenizer, image_tokens=patches, turn_tokens=recipe.model.turn_tokens)


def _trained(recipe: Recipe, scratch: ScratchSpec, root: Path) -> Any:
    template = TEMPLATES[recipe.model.template]
    files = dict.fromkeys(name for stage in recipe.stages for name in stage.data_files)
    rows = [row for name in files for row in islice(Rows(root / name, Conversation), TOKENIZER_ROWS)]
    texts = [c.text for row in rows for c in render(training_turns(row.turns), template).chunks if c.text]
    return train_tokenizer(texts, vocab_size=scratch.vocab_size, max_positions=scratch.max_positions)
