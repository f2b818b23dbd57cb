"""The benchmarks of ``tasks.benchmarks`` as rows of lmms-eval: one function a task, named in its YAML file.

The rows come from the data root in ``VISCOT_DATA`` through the same readers as ``viscot bench run``: same
questions, same order of the options (seed 0). ``score/lmms.py`` scores them by viscot's own rule.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import UsageError
from viscot_core.lmms_eval.utils import DATA
from viscot_core.tasks.base import Item
from viscot_core.tasks.benchmarks.task import Benchmarks

if TYPE_CHECKING:
    from datasets import Dataset


def search_rows(name: str, _: Dataset) -> Dataset:
    """The items of one benchmark in place of the packaged stand-in row. Raises UsageError without a root."""
    from datasets import Dataset

    root = os.environ.get(DATA)
    if not root:
        raise UsageError(f"Set {DATA} to a data root: the folder that holds bench/{name}.")
    return Dataset.from_list([_row(item) for item in Benchmarks(Path(root), (name,)).load().items])


def _row(item: Item) -> dict[str, Any]:
    return {
        "dataset": item.dataset,
        "question_id": str(item.question_id),
        "path": str(item.path),
        "question": item.question,
        "reference": item.reference,
        "options": list(item.facts.get("options", ())),
        "category": item.facts.get("category") or "",
        "width": item.size[0],
        "height": item.size[1],
    }


vstar = partial(search_rows, "vstar")
hrbench4k = partial(search_rows, "hrbench4k")
hrbench8k = partial(search_rows, "hrbench8k")
treebench = partial(search_rows, "treebench")
visualprobe = partial(search_rows, "visualprobe")
zoombench = partial(search_rows, "zoombench")
mme_realworld_lite = partial(search_rows, "mme-realworld-lite")
