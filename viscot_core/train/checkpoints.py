"""Checkpoints of a run: complete or absent, loadable by ``infer`` and ``bench`` as they are, and resumable.

``STAGE/checkpoint-N`` holds the model, the optimizer, the schedule, the random states and the position in the
data. ``complete.json`` is written last: a folder without it was cut short and is not used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from viscot_core.errors import CheckpointError, ViscotError
from viscot_core.models.weights import open_weights
from viscot_core.train.divided import fill, is_divided
from viscot_core.train.schema import StageSpec

log = logging.getLogger(__name__)

COMPLETE = "complete.json"
PROJECTOR = "projector.safetensors"
PROJECTOR_BIN = "mm_projector.bin"
PROJECTOR_MODULE = "model.multi_modal_projector."
ADAPTER = "adapter_model.safetensors"
_FULL = 1 << 24
"""A write that failed with less than this left, in bytes, failed for want of room."""


def mark_complete(folder: Path, *, step: int, processes: int) -> None:
    """Declare a checkpoint whole; written last, and atomically."""
    temporary = folder / f"{COMPLETE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"step": step, "processes": processes}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / COMPLETE)


def last_checkpoint(stage: Path) -> Path | None:
    """The newest whole checkpoint of a stage's folder, or None."""
    return max((path for path in stage.glob("checkpoint-*") if _is_whole(path)), key=_step, default=None)


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
    newest_first = sorted(stage.glob("checkpoint-*"), key=_step, reverse=True)
    kept = [path for path in newest_first if _is_whole(path)][:keep]
    for path in newest_first:
        if kept and path not in kept and _step(path) < _step(kept[0]):
            (path / COMPLETE).unlink(
                missing_ok=True
            )  # a kill in the middle leaves no folder that looks whole
            shutil.rmtree(path)


def processes_of(folder: Path) -> int | None:
    """With how many processes a checkpoint was written; None where it does not say."""
    path = folder / COMPLETE
    return int(json.loads(path.read_text(encoding="utf-8"))["processes"]) if path.exists() else None


@dataclass(frozen=True, slots=True)
class Moved:
    """A checkpoint whose optimizer state was divided over another number of processes: weights and place
    only.
    """

    checkpoint: Path
    step: int


def moved_from(checkpoint: Path | None, stage: StageSpec, processes: int) -> Moved | None:
    """`Moved` where ``checkpoint`` was written by another number of processes under ZeRO, else None.

    Without ZeRO every process holds the whole optimizer, and a plain resume does.
    """
    before = None if checkpoint is None else processes_of(checkpoint)
    if checkpoint is None or before is None or before == processes:
        return None
    kept = "the optimizer's averages begin anew" if stage.zero_stage else "random states are new"
    log.warning(
        "%s was written by %d processes and %d go on: weights and the place in the data are kept, %s",
        checkpoint.name, before, processes, kept,
    )  # fmt: skip
    return Moved(checkpoint, _step(checkpoint)) if stage.zero_stage else None


def projector_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The projector's tensors of a state dict, by name inside the projector (``linear_1.weight``)."""
    found = {}
    for name, tensor in state.items():
        if ".original_module." in name:
            continue
        clean = name.replace(".modules_to_save.default", "").removeprefix("base_model.model.")
        if clean.startswith(PROJECTOR_MODULE):
            found[clean.removeprefix(PROJECTOR_MODULE)] = tensor.detach().cpu().contiguous()
    return found


def save_projector(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """``projector.safetensors``, and ``mm_projector.bin`` under the names the reference reads."""
    from safetensors.torch import save_file

    tensors = projector_tensors(state)
    save_file(tensors, folder / PROJECTOR, metadata={"format": "pt"})
    places = {"linear_1": "0", "linear_2": "2"}
    reference = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.partition(".")
        reference[f"model.mm_projector.{places[layer]}.{kind}"] = tensor
    torch.save(reference, folder / PROJECTOR_BIN)


def load_weights(model: Any, folder: Path) -> None:
    """Weights of a checkpoint of this run into ``model``: whole, a projector, or an adapter.

    `CheckpointError` names what is missing or does not fit; nothing is left at its old value in silence.
    """
    from safetensors.torch import load_file

    if (folder / ADAPTER).exists():
        from peft import set_peft_model_state_dict

        result = set_peft_model_state_dict(model, load_file(folder / ADAPTER))
        _refuse(folder, [], list(result.unexpected_keys))
        return
    if not any(folder.glob("model*.safetensors")) and (folder / PROJECTOR).exists():
        state = {PROJECTOR_MODULE + name: tensor for name, tensor in load_file(folder / PROJECTOR).items()}
        missing, unexpected = _put(model, {name: partial(_same, tensor) for name, tensor in state.items()})
        _refuse(folder, [name for name in missing if name.startswith(PROJECTOR_MODULE)], unexpected)
        return
    missing, unexpected = _put(model, {name: stored.read for name, stored in open_weights(folder).items()})
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    _refuse(folder, [name for name in missing if name not in tied], unexpected)


def _put(model: Any, readers: Mapping[str, Callable[[], torch.Tensor]]) -> tuple[list[str], list[str]]:
    """Tensors into a model, whole or divided by ZeRO-3; names that were missing, and unknown ones."""
    if is_divided(model):
        return fill(model, readers)
    found = model.load_state_dict({name: read() for name, read in readers.items()}, strict=False)
    return found.missing_keys, found.unexpected_keys


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _refuse(folder: Path, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        raise CheckpointError(
            f"{folder} does not fit this recipe: missing {missing[:3]}, unexpected {unexpected[:3]}."
        )
