"""Which family a checkpoint belongs to, by its config."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.base import Family

FAMILIES = ("llava", "generic")
"""The rooms, asked in this order; each has a module ``family`` with ``owns(config)`` and ``FAMILY``."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint with this ``config.json``.

    Raises:
        CheckpointError: no family reads such a model.
    """
    # `generic` also knows LLaVA's class (it takes all that transformers does), so it is asked last.
    for name in FAMILIES:
        module = import_module(f"viscot_core.families.{name}.family")
        if module.owns(config):
            family: Family = module.FAMILY
            return family
    kinds = config.get("architectures") or [config.get("model_type", "of an unknown kind")]
    raise CheckpointError(
        f"viscot reads models that answer about images, and this is {kinds[0]}; give another model."
    )
