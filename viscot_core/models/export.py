"""Hand a model on: transformers' layout for vLLM, SGLang, llama.cpp and plain transformers, or the original.

Tensors go from the old files to the new ones a tensor at a time, in the old files' order. The new folder is
built beside its place and appears there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.checkpoint import Checkpoint, Layout, Source
from viscot_core.files import atomic_folder
from viscot_core.models.load import DTYPES, what_is_not_finite
from viscot_core.tensor_writer import SHARD_BYTES, WRITTEN, Planned, write_sharded

if TYPE_CHECKING:
    import torch

Progress = Callable[[int], None]


def export(
    checkpoint: Checkpoint,
    out: Path,
    layout: Layout,
    *,
    dtype: str = "keep",
    vision_tower: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    advance: Progress = lambda _: None,
) -> Path:
    """Write ``checkpoint`` into the new folder ``out`` in ``layout``.

    Args:
        dtype: ``keep`` (each tensor's own), ``fp32``, ``fp16`` or ``bf16``.
        vision_tower: what ``mm_vision_tower`` says in the original layout.
        advance: told the bytes written, for a progress bar (``planned_bytes`` gives the total).

    Raises:
        CheckpointError: the checkpoint is not whole, holds NaN or numbers beyond ``dtype``, or cannot be
            expressed in ``layout``.
        UsageError: ``out`` holds something already, or an unknown dtype.
    """
    checkpoint.require_whole()
    if dtype != "keep" and dtype not in DTYPES:
        raise UsageError(f"--dtype is keep, {', '.join(DTYPES)}, not '{dtype}'.")
    with atomic_folder(out) as building:
        plan = planned(checkpoint, layout, dtype)
        checkpoint.family.write_files(
            checkpoint, building, layout, dtype=_main_dtype(plan), vision_tower=vision_tower
        )
        checkpoint.manifest.save(building)
        write_sharded(building, plan, shard_bytes=shard_bytes, advance=advance)
    return out


def planned(checkpoint: Checkpoint, layout: Layout, dtype: str = "keep") -> list[Planned]:
    """The tensors of an export with their new names, shapes and dtypes, in the order of the old files."""
    family = checkpoint.family
    plan = []
    # In the order of the files: the reader maps one file at a time.
    for name, source in sorted(checkpoint.tensors.items(), key=lambda item: item[1].stored.file):
        rows = family.exported_rows(name, checkpoint, layout)
        kept = source.stored.dtype if source.stored.dtype in WRITTEN else "float32"
        written = DTYPES.get(dtype, kept)
        plan.append(
            Planned(
                family.stored_name(name, layout),
                source.shape if rows is None else (rows, *source.shape[1:]),
                written,
                partial(_read, source, rows, written),
            )
        )
    return plan


def _read(source: Source, rows: int | None, dtype: str) -> torch.Tensor:
    tensor = source.read()[:rows]
    if not_finite := what_is_not_finite(tensor, dtype):
        raise CheckpointError(f"{source.stored.file}: '{source.stored.name}' holds {not_finite}.")
    return tensor


def _main_dtype(plan: list[Planned]) -> str:
    """The dtype of the most bytes: what ``config.json`` states."""
    sizes: dict[str, int] = {}
    for tensor in plan:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda name: sizes[name])
