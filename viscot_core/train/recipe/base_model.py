"""The model a recipe starts from, and what its family knows of training it. Headers only are read."""

from __future__ import annotations

from contextlib import suppress

from viscot_core.errors import CheckpointError
from viscot_core.families.checkpoint import Checkpoint
from viscot_core.families.shapes import ModelShape
from viscot_core.families.table import family_of, published_shape, training_from_parts, training_of
from viscot_core.files import expanded
from viscot_core.models import zoo
from viscot_core.models.checkpoint import blamed_on, open_checkpoint
from viscot_core.tensors import read_json
from viscot_core.train.recipe.schema import ModelSpec


def open_base(model: ModelSpec) -> Checkpoint:
    """The recipe's model as one checkpoint: a whole one, or a language model, a tower and a projector.

    Raises:
        CheckpointError: a part is not on this machine or of another kind, a projector of another width, no
            tokenizer.
        UsageError: viscot cannot train models of the checkpoint's family yet.
    """
    if model.checkpoint:
        found = open_checkpoint(zoo.resolve(model.checkpoint))
        training_of(found, f"model.checkpoint: {model.checkpoint}")
    else:
        found = training_from_parts().from_parts(model, zoo.resolve)
    found.require_whole()
    return found


def shape_of(model: ModelSpec) -> ModelShape | None:
    """The shape of the model that a recipe names; None where it is neither published nor on this machine."""
    if not model.checkpoint:
        return training_from_parts().shape(model)
    config = expanded(model.checkpoint) / "config.json"
    if not config.is_file():
        with suppress(CheckpointError):  # pulled or not: the list of problems says it
            config = zoo.resolve(model.checkpoint) / "config.json"
    if not config.is_file():
        return published_shape(model)
    try:
        with blamed_on(config):
            found = family_of(read_json(config)).training
            named = model.model_copy(update={"checkpoint": str(config.parent)})
            return found.shape(named) if found else None
    except CheckpointError:  # the list of problems says it
        return None
