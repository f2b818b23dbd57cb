"""Every dialect by its name."""

from __future__ import annotations

from viscot_core.errors import check_choice
from viscot_core.policies.dialects.base import Dialect
from viscot_core.policies.dialects.viscot import VISCOT

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (VISCOT,)}


def dialect(name: str) -> Dialect:
    """The dialect called ``name``. Raises UsageError where there is none."""
    return DIALECTS[check_choice("--dialect", name, DIALECTS)]
