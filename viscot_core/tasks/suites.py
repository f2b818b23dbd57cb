"""The names of data sets, suites and RefCOCO's splits, and which of them a user asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from viscot_core.errors import UsageError, nearest

PAPER = (
    *("cub", "docvqa", "dude", "flickr30k", "gqa", "infographicsvqa"),
    *("openimages", "sroie", "textcap", "textvqa", "visual7w", "vsr"),
)
"""The twelve data sets of the paper's tables."""

SUITES: dict[str, tuple[str, ...]] = {
    "paper": PAPER,
    "scripts": tuple(name for name in PAPER if name != "visual7w"),
    "all": (*PAPER, "emotic"),
}
"""``scripts`` are the eleven of the reference's scripts, ``all`` every published file."""

REFCOCO = tuple(
    f"{name}/{split}"
    for name, splits in {
        "refcoco": ("val", "testA", "testB"),
        "refcoco+": ("val", "testA", "testB"),
        "refcocog": ("val", "test"),
    }.items()
    for split in splits
)
"""The eight splits of the paper's Table 9."""

TASK_ALIASES = {"v7w": "visual7w"}


def split_name(path: Path) -> str:
    """``REC_refcoco+_unc_testA.jsonl`` -> ``refcoco+/testA``; other stems keep their middle."""
    stem = path.stem.removeprefix("REC_")
    # unc and umd are the universities whose splits these are; the paper's names leave them out.
    published = re.fullmatch(r"(refcoco[+g]?)_(?:unc|umd)_(\w+)", stem)
    if published:
        return f"{published[1]}/{published[2]}"
    name, _, split = stem.rpartition("_")
    return f"{name}/{split}"


def chosen_tasks(root: Path, found: dict[str, Path], suite: str | None, tasks: Sequence[str]) -> list[str]:
    """The data sets asked for, of those ``found`` in the root; without suite and tasks the paper's, or all.

    Raises:
        UsageError: an unknown suite, a data set that is not there, or no benchmark at all.
    """
    if not found:
        raise UsageError(
            f"{root} has no benchmark/*.json; give the folder of 'viscot data fetch' or 'viscot data synth'."
        )
    if tasks:
        return chosen([TASK_ALIASES.get(task, task) for task in tasks], found, "data set")
    if suite is None:
        known = [name for name in SUITES["all"] if name in found]
        return chosen(PAPER if known else found, found, "data set")
    if suite not in SUITES:
        raise UsageError(
            f"There is no suite '{suite}'; the suites are {', '.join(SUITES)}.{nearest(suite, SUITES)}"
        )
    return chosen(SUITES[suite], found, "data set")


def chosen(names: Iterable[str], found: dict[str, Path], what: str) -> list[str]:
    """``names``, each once. Raises UsageError for a ``what`` that is not among those ``found``."""
    wanted = list(dict.fromkeys(names))
    absent = [name for name in wanted if name not in found]
    if absent:
        hint = nearest(absent[0], found) if len(absent) == 1 else ""
        raise UsageError(
            f"The data root has no {what} {', '.join(absent)}; it has {', '.join(sorted(found))}.{hint}"
        )
    return wanted
