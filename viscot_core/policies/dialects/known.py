"""Every dialect by its name."""

from __future__ import annotations

from viscot_core.errors import check_choice
from viscot_core.policies.dialects.base import Dialect
from viscot_core.policies.dialects.deepeyes import DEEPEYES
from viscot_core.policies.dialects.mini_o3 import MINI_O3
from viscot_core.policies.dialects.openai_tools import OPENAI_TOOLS
from viscot_core.policies.dialects.pixel_reasoner import PIXEL_REASONER
from viscot_core.policies.dialects.qwen import QWEN3_5, QWEN3_VL
from viscot_core.policies.dialects.viscot import VISCOT

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (VISCOT, QWEN3_VL, QWEN3_5, DEEPEYES, MINI_O3, PIXEL_REASONER, OPENAI_TOOLS)
}


def dialect(name: str) -> Dialect:
    """The dialect called ``name``. Raises UsageError where there is none."""
    return DIALECTS[check_choice("--dialect", name, DIALECTS)]
