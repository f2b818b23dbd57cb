"""The tasks by the ``kind`` that ``run.json`` has: a new task is one module and one line here."""

from __future__ import annotations

from viscot_core.tasks.base import Task
from viscot_core.tasks.benchmarks.task import Benchmarks
from viscot_core.tasks.refcoco import RefCoco
from viscot_core.tasks.visual_cot.task import VisualCot
from viscot_core.tasks.vqa_file import VqaFile

TASKS: dict[str, type[Task]] = {
    "cot": VisualCot,
    "refcoco": RefCoco,
    "vqa": VqaFile,
    "benchmarks": Benchmarks,
    "general": VisualCot,  # lmms-eval's tasks, answered under the strategies cot and direct (``lmms_eval/``)
}
