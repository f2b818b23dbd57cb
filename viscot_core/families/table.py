"""Which family a checkpoint belongs to, by its config."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from viscot_core.errors import CheckpointError, UsageError, nearest
from viscot_core.families.base import Family, Square, TextTemplate
from viscot_core.families.checkpoint import Checkpoint
from viscot_core.families.shapes import ModelShape
from viscot_core.families.training import ModelChoice, Training

FAMILIES = ("llava", "generic")
"""The rooms, asked in this order; each has a module ``family`` with ``family_for(config)``, ``FAMILY`` and
the names of what is ``TRAINABLE``, and a module ``shapes`` with ``shape_of(choice)``."""
_FROM_PARTS = "llava"
"""What a language model under a vision tower becomes: no other family is put together from parts yet."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint with this ``config.json``.

    Raises:
        CheckpointError: no family reads such a model.
    """
    # `generic` also knows LLaVA's class (it takes all that transformers does), so it is asked last.
    for name in FAMILIES:
        family: Family | None = _module(name).family_for(config)
        if family is not None:
            return family
    raise CheckpointError(_why_not(config))


def _why_not(config: Mapping[str, Any]) -> str:
    """Why no family reads such a config, and what to do."""
    from transformers import CONFIG_MAPPING, __version__

    kind = config.get("model_type")
    kinds = config.get("architectures") or [kind]
    if not kind:
        return "its config.json has no model_type, so its kind is not known; pull or copy it again."
    if kind in CONFIG_MAPPING:
        return f"viscot reads models that answer about images, and this is {kinds[0]}; give another model."
    own = ", and viscot does not run code that comes with a model" if config.get("auto_map") else ""
    return (
        f"transformers {__version__} does not know models of the kind '{kind}' ({kinds[0]}){own}; a newer "
        "transformers may: pip install -U transformers."
    )


def text_templates() -> dict[str, TextTemplate]:
    """Every wording that is known without a checkpoint, by its name."""
    found: dict[str, TextTemplate] = {}
    for family in FAMILIES:
        found |= _module(family).FAMILY.text_templates
    return found


def text_template(name: str) -> TextTemplate:
    """Raises UsageError, with the nearest names, where there is no such template."""
    known = text_templates()
    if name not in known:
        hint = nearest(name, known) or f" They are {', '.join(known)}."
        raise UsageError(f"There is no template '{name}'.{hint}")
    return known[name]


def square_of(served: str) -> Square | None:
    """The square that a model which a server calls ``served`` reads, where a family is certain of it."""
    found = (_module(family).FAMILY.square(served) for family in FAMILIES)
    return next((square for square in found if square is not None), None)


def training_of(checkpoint: Checkpoint, name: str) -> Training:
    """What training asks of the family of ``checkpoint``, a model that the user calls ``name``.

    Raises:
        UsageError: such a model cannot be trained yet.
    """
    family = checkpoint.family
    if family.training is None:
        kinds = checkpoint.raw_config.get("architectures") or [checkpoint.raw_config.get("model_type")]
        raise UsageError(
            f"{name} is of the family '{family.name}' ({kinds[0]}), which viscot cannot train yet; give a "
            f"model of another family ({', '.join(trainable())})."
        )
    return family.training


def trainable() -> list[str]:
    """Names of the families that can be trained."""
    return [name for module in FAMILIES for name in _module(module).TRAINABLE]


def published_shape(choice: ModelChoice) -> ModelShape | None:
    """The shape of the model that a recipe names, by the family that knows it; None where none does."""
    found = (import_module(f"viscot_core.families.{name}.shapes").shape_of(choice) for name in FAMILIES)
    return next((shape for shape in found if shape is not None), None)


def training_from_parts() -> Training:
    """What training asks of a model that is put together from named parts, or starts from nothing."""
    found: Training = _module(_FROM_PARTS).FAMILY.training
    return found


def _module(name: str) -> Any:
    return import_module(f"viscot_core.families.{name}.family")
