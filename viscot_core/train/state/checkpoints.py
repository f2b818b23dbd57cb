"""Checkpoints of a run: complete or ignored, usable by ``infer`` and ``bench`` as they are, and resumable.

``STAGE/checkpoint-N`` holds the model, the optimizer, the schedule, the random states and the position in the
data. ``complete.json`` is written last: a folder without it is incomplete and is not used.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from viscot_core.errors import CheckpointError, DataError, ViscotError
from viscot_core.files import atomic_write, sync_folder
from viscot_core.train.recipe.schema import StageSpec

log = logging.getLogger(__name__)

COMPLETE = "complete.json"
_NAME = re.compile(r"checkpoint-\d+")
_FULL = 1 << 24
"""Free bytes below which a failed write is taken for a full disk."""


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """``complete.json`` of a checkpoint.

    ``zero_stage`` is None in checkpoints of earlier versions. ``rows`` counts the rows of an epoch of each
    file, ``bad`` the rows met so far that cannot be learned from. ``finite``: its weights were looked at and
    are finite (earlier versions did not look).
    """

    step: int
    processes: int
    zero_stage: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    bad: int = 0
    finite: bool = False


def mark_complete(folder: Path, record: CheckpointRecord) -> None:
    """Declare a checkpoint complete; the last file to be written, atomically."""
    # On the disk before the mark: after a power failure it could stand beside empty files.
    sync_folder(folder)
    with atomic_write(folder / COMPLETE) as file:
        json.dump(asdict(record), file)


def record_of(folder: Path) -> CheckpointRecord | None:
    """How a checkpoint was written; None for one of an early version, which does not say."""
    path = folder / COMPLETE
    try:
        return CheckpointRecord(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete {folder}, then --resume.") from error


def last_checkpoint(stage: Path) -> Path | None:
    """The newest complete checkpoint in a stage's folder, or None."""
    return next((path for path in _newest_first(stage) if _is_complete(path)), None)


def set_aside(checkpoint: Path) -> Path | None:
    """Rename a checkpoint, so that no run resumes from it; None where there is none."""
    aside = checkpoint.with_name(f"{checkpoint.name}.nonfinite")
    with suppress(OSError):  # every process may come here; one of them renames
        checkpoint.rename(aside)
    return aside if aside.is_dir() else None


def set_aside_nonfinite(stage: Path) -> None:
    """Set aside the newest checkpoints with infinite or NaN weights, which earlier versions wrote."""
    while (last := last_checkpoint(stage)) is not None:
        record = record_of(last)
        if (record and record.finite) or _is_finite(last):
            return
        log.warning("the weights of %s are not finite: it is set aside, the one before it is used", last)
        if set_aside(last) is None:
            return


def _is_finite(checkpoint: Path) -> bool:
    import torch

    from viscot_core.tensors import open_file

    stored = (one for file in checkpoint.glob("*.safetensors") for one in open_file(file).values())
    return all(bool(torch.isfinite(one.read()).all()) for one in stored)


def require_same_rows(checkpoint: Path | None, rows: Mapping[str, int]) -> None:
    """`DataError` where files have gained or lost rows since ``checkpoint``.

    The order of rows is drawn from their number: with another number the rest of the run would read some rows
    twice and others never.
    """
    before = record_of(checkpoint) if checkpoint else None
    changed = [
        f"{name} has {rows[name]} rows and had {count}"
        for name, count in (before.rows.items() if before else ())
        if name in rows and rows[name] != count
    ]
    if changed:
        raise DataError(
            f"{'; '.join(changed)} when {checkpoint} was written: put the rows back and correct them in "
            "place, or start a new run (--out) from its weights (model.checkpoint; after a pretrain stage "
            "model.projector)."
        )


def _newest_first(stage: Path) -> list[Path]:
    """A stage's checkpoints; a folder of another name, such as ``checkpoint-100-best``, is the user's."""
    ours = [path for path in stage.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(ours, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _is_complete(folder: Path) -> bool:
    if (folder / COMPLETE).exists():
        return True
    # Checkpoints of an early version have no marks: the Trainer's state was their last file.
    return (folder / "trainer_state.json").exists() and not (folder / "started.json").exists()


def mark_started(folder: Path) -> None:
    """Declare that a checkpoint is being written; without `mark_complete` it will not be used."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "started.json").write_text("{}", encoding="utf-8")


@contextmanager
def naming_a_full_disk(stage: Path) -> Iterator[None]:
    """Turn whatever torch or safetensors raise when the disk is full into a `ViscotError` that says so."""
    try:
        yield
    except Exception as error:  # each library raises another one; with room left it is raised again as it is
        # A user's quota can be exhausted while the disk itself has room.
        if shutil.disk_usage(stage).free > _FULL and "quota" not in str(error).lower():
            raise
        raise ViscotError(
            f"The disk of {stage} is full; free some space, then --resume continues from the last complete "
            "checkpoint."
        ) from error


def retain(stage: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest complete checkpoints, and incomplete ones older than those.

    Called when the newest one is complete: there is always a checkpoint to resume from.
    """
    newest_first = _newest_first(stage)
    kept = [path for path in newest_first if _is_complete(path)][:keep]
    for path in newest_first:
        if kept and path not in kept and _step(path) < _step(kept[0]):
            # First the mark: a kill during the deletion leaves no folder that looks complete.
            (path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class WeightsOnly:
    """A checkpoint whose optimizer state does not fit: its weights and its step are used, nothing else."""

    checkpoint: Path
    step: int


def weights_only(checkpoint: Path | None, stage: StageSpec, processes: int) -> WeightsOnly | None:
    """`WeightsOnly` where another ZeRO stage or, under ZeRO, another number of processes wrote it.

    ZeRO's optimizer state is divided over its processes. Without ZeRO every process holds all of it, and any
    number of processes resumes as usual: None.
    """
    written = None if checkpoint is None else record_of(checkpoint)
    if checkpoint is None or written is None:
        return None
    # An early version did not record its ZeRO stage: the recipe's is taken.
    zero = stage.zero_stage if written.zero_stage is None else written.zero_stage
    if (written.processes, zero) == (processes, stage.zero_stage):
        return None
    divided = bool(zero or stage.zero_stage)
    log.warning(
        "%s was written by %s, and %s continue: weights and the position in the data are kept, %s",
        checkpoint.name, _job(written.processes, zero), _job(processes, stage.zero_stage),
        "the optimizer's averages start again from 0" if divided else "random states are new",
    )  # fmt: skip
    return WeightsOnly(checkpoint, _step(checkpoint)) if divided else None


def _job(processes: int, zero_stage: int) -> str:
    return f"{processes} processes" + (f" under ZeRO {zero_stage}" if zero_stage else "")
