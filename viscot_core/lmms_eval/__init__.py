"""viscot inside lmms-eval: the model class ``viscot`` and the Visual CoT benchmark as a task package.

With viscot installed beside lmms-eval, ``--model viscot`` runs the two-turn chain on any of its tasks, and
``--include_path`` with ``TASKS`` adds ``visual_cot`` (any model; the chain where the model is viscot) and
``visual_cot_chain`` (both turns as lmms-eval drives them, any model). Their data root is ``VISCOT_DATA``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

TASKS = Path(__file__).resolve().parent
"""The folder of the task package, for ``--include_path``."""
CHAIN = "visual_cot_chain"
PACKAGED = ("visual_cot", CHAIN)


def manifest() -> ModelManifest:
    """What the entry point ``lmms_eval.models`` gives lmms-eval: where the class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="viscot", simple_class_path=f"{__name__}.model.Viscot")
