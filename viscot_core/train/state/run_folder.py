"""A run folder: who may write in it, and what it records.

``RUN/recipe.yaml`` is the resolved recipe, ``RUN/plan.json`` the plan, ``RUN/stages/N-KIND`` each stage's log
and checkpoints, ``RUN/logs`` the ranks' output. The trained model's files lie in ``RUN`` itself.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from viscot_core.errors import UsageError
from viscot_core.files import atomic_write
from viscot_core.train.plan.plan_types import PLAN_FILE, Plan
from viscot_core.train.recipe.load import dump_recipe, load_recipe
from viscot_core.train.recipe.schema import Recipe

log = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"
ROWS = "rows"
"""Rows made for the run before it starts: split off, or read from another format."""

# Settings that may differ when a run is resumed, because they do not change what is learned.
FREE = frozenset(
    {
        "data.root",
        "data.images",
        "data.preflight",
        "data.allow_bad",
        "report_to",
        "description",
        "save_steps",
        "keep_checkpoints",
        "log_steps",
        "workers",
        "per_device_batch_size",
        "compile",
        "zero_stage",
        "offload",
        "gradient_checkpointing",
        "recompute_every",
        "packing",
    }
)
RATES = frozenset({"learning_rate", "projector_lr", "vision_tower_lr"})
"""These may differ too, from the last checkpoint on: a loss that explodes needs lower ones."""
_STARTING = (".lock", f".{RECIPE_FILE}.")
"""Names of what lies in a folder while a run starts there: locks, and a recipe being written."""


@contextmanager
def locked(run: Path, node: str = "") -> Iterator[None]:
    """Hold the folder's lock; it ends with the process, also after kill -9.

    ``node`` names one of several machines that share the folder in one job, each with a lock of its own.
    """
    run.mkdir(parents=True, exist_ok=True)
    # Mode a+ keeps the content: a process that does not get the lock reads the holder's name in it.
    with (run / f".lock{node}").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise UsageError(f"{run} is in use by {holder}; wait for it or give another --out.") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}")
        lock.flush()
        yield


def holds_run(run: Path) -> bool:
    """Whether a run was started here."""
    return (run / RECIPE_FILE).exists()


def is_finished(run: Path) -> bool:
    """Whether the trained model is complete: its manifest is written last."""
    return (run / "viscot.json").exists()


def stage_folders(run: Path, recipe: Recipe) -> list[Path]:
    """Where each stage of the recipe keeps its log, its checkpoints and its model."""
    return [run / "stages" / f"{number}-{stage.kind}" for number, stage in enumerate(recipe.stages, 1)]


def has_model(stage: Path) -> bool:
    """Whether a stage is finished; its folder ``model`` appears only when it is complete."""
    return (stage / "model" / "viscot.json").exists() or (stage / "model" / "config.json").exists()


def claim(run: Path, recipe: Recipe, *, resume: bool, shared: bool = False) -> None:
    """Check that the folder is new, or holds this run and ``resume`` is given; nothing is ever overwritten.

    Machines that share the folder in one job (``shared``) join the run that the first of them starts.

    Raises:
        UsageError: the folder holds a run and ``resume`` is false, holds other files, or settings differ in
            more than learning rates (each is named with its old and new value).
    """
    # Listed before `holds_run` looks: another machine may start the run in between.
    names = [path.name for path in run.iterdir()] if run.is_dir() else []
    if not holds_run(run):
        strangers = [name for name in names if name != ROWS and not name.startswith(_STARTING)]
        if strangers:
            raise UsageError(f"{run} holds other files ({', '.join(strangers[:3])}); give a new --out.")
        if resume:
            raise UsageError(f"{run} holds no run to resume; leave --resume out or give another --out.")
        return
    if not (resume or shared):
        state = "a finished" if is_finished(run) else "an unfinished"
        raise UsageError(f"{run} holds {state} run; --resume continues it, --out names another folder.")
    changed = differences(load_recipe(run / RECIPE_FILE), recipe)
    rates = [text for text in changed if text.partition(":")[0].split(".")[-1] in RATES]
    if listed := "; ".join(text for text in changed if text not in rates):
        raise UsageError(f"{run} was started with other settings: {listed}. Use them again or another --out.")
    if rates:
        log.warning("from the last checkpoint on: %s", "; ".join(rates))


def write(run: Path, recipe: Recipe, plan: Plan) -> None:
    """Write recipe and plan, atomically; the recipe first, as it marks that a run is here."""
    for name, text in ((RECIPE_FILE, dump_recipe(recipe)), (PLAN_FILE, plan.to_json())):
        with atomic_write(run / name) as file:
            file.write(text)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Settings that change what is learned, as ``path: old -> new``."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    found = []
    for path in dict.fromkeys([*before, *after]):
        # What is measured while it trains does not change what is learned.
        if path in FREE or path.split(".")[-1] in FREE or "eval" in path.split("."):
            continue
        if before.get(path) != after.get(path):
            found.append(f"{path}: {before.get(path)} -> {after.get(path)}")
    return found


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, child in value.items() for k, v in _flat(child, f"{path}.{key}").items()}
    if isinstance(value, list) and value and isinstance(value[0], dict) and "kind" in value[0]:
        return {k: v for child in value for k, v in _flat(child, f"{path}.{child['kind']}").items()}
    return {path.lstrip("."): value}
