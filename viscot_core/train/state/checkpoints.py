"""Checkpoints of a run: complete or absent, loadable by ``infer`` and ``bench`` as they are, and resumable.

``STAGE/checkpoint-N`` holds the model, the optimizer, the schedule, the random states and the position in the
data. ``complete.json`` is written last: a folder without it was cut short and is not used.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from viscot_core.errors import DataError, ViscotError
from viscot_core.train.recipe.schema import StageSpec

log = logging.getLogger(__name__)

COMPLETE = "complete.json"
_NAME = re.compile(r"checkpoint-\d+")
_FULL = 1 << 24
"""A write that failed with less than this left, in bytes, failed for want of room."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a whole checkpoint says of itself, in ``complete.json``.

    ``zero_stage`` is None where it was written before that was kept. ``rows`` are those of an epoch of each
    file, ``bad`` counts those met until then that cannot be learned from.
    """

    step: int
    processes: int
    zero_stage: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    bad: int = 0


def mark_complete(folder: Path, saved: Saved) -> None:
    """Declare a checkpoint whole; written last, and atomically."""
    temporary = folder / f"{COMPLETE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(saved), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / COMPLETE)


def saved_of(folder: Path) -> Saved | None:
    """How a checkpoint was written; None where it does not say."""
    path = folder / COMPLETE
    return Saved(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def last_checkpoint(stage: Path) -> Path | None:
    """The newest whole checkpoint of a stage's folder, or None."""
    return next((path for path in _newest_first(stage) if _is_whole(path)), None)


def require_same_rows(checkpoint: Path | None, rows: Mapping[str, int]) -> None:
    """`DataError` where files have gained or lost rows since ``checkpoint``: the order of all rows would be
    another, and what is left of the run would repeat some of them and never read others.
    """
    before = saved_of(checkpoint) if checkpoint else None
    changed = [
        f"{name} has {rows[name]} rows and had {count}"
        for name, count in (before.rows.items() if before else ())
        if name in rows and rows[name] != count
    ]
    if changed:
        raise DataError(
            f"{'; '.join(changed)} when {checkpoint} was written: put the rows back and correct them in "
            "place, or begin a new run with --out from its weights (model.checkpoint, after a pretrain "
            "model.projector)."
        )


def _newest_first(stage: Path) -> list[Path]:
    """A stage's checkpoints; a folder of any other name, such as ``checkpoint-100-best``, is a person's."""
    ours = [path for path in stage.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(ours, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _is_whole(folder: Path) -> bool:
    if (folder / COMPLETE).exists():
        return True
    # Written before checkpoints were marked: the Trainer's state was the last file then.
    return (folder / "trainer_state.json").exists() and not (folder / "started.json").exists()


def mark_started(folder: Path) -> None:
    """Declare that a checkpoint is being written; without `mark_complete` it will not be used."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "started.json").write_text("{}", encoding="utf-8")


@contextmanager
def disk_full_named(stage: Path) -> Iterator[None]:
    """`ViscotError` in the place of what torch or safetensors say when the disk fills up while they write."""
    try:
        yield
    except Exception as error:  # each library has its own; whatever it is, it goes on where room is left
        if shutil.disk_usage(stage).free > _FULL and "quota" not in str(error).lower():
            raise
        raise ViscotError(
            f"The disk of {stage} is full; free some, then --resume goes on from the last whole checkpoint."
        ) from error


def retain(stage: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest whole checkpoints, and what a kill left of unfinished older ones.

    Called when the newest one is whole: no moment is without a checkpoint to go on from.
    """
    newest_first = _newest_first(stage)
    kept = [path for path in newest_first if _is_whole(path)][:keep]
    for path in newest_first:
        if kept and path not in kept and _step(path) < _step(kept[0]):
            (path / COMPLETE).unlink(
                missing_ok=True
            )  # a kill in the middle leaves no folder that looks whole
            shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class Moved:
    """A checkpoint whose optimizer state was divided in another way: weights and place only."""

    checkpoint: Path
    step: int


def moved_from(checkpoint: Path | None, stage: StageSpec, processes: int) -> Moved | None:
    """`Moved` where ``checkpoint`` was written under another ZeRO stage, or by another number of processes
    under ZeRO, else None.

    Without ZeRO every process holds the whole optimizer, and a plain resume does.
    """
    saved = None if checkpoint is None else saved_of(checkpoint)
    if checkpoint is None or saved is None:
        return None
    zero = stage.zero_stage if saved.zero_stage is None else saved.zero_stage
    if (saved.processes, zero) == (processes, stage.zero_stage):
        return None
    divided = bool(zero or stage.zero_stage)
    log.warning(
        "%s was written by %s and %s go on: weights and the place in the data are kept, %s",
        checkpoint.name, _job(saved.processes, zero), _job(processes, stage.zero_stage),
        "the optimizer's averages begin anew" if divided else "random states are new",
    )  # fmt: skip
    return Moved(checkpoint, _step(checkpoint)) if divided else None


def _job(processes: int, zero_stage: int) -> str:
    return f"{processes} processes" + (f" under ZeRO {zero_stage}" if zero_stage else "")
