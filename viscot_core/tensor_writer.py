"""Write safetensors a tensor at a time: converting a model needs memory for one tensor, not for a model."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viscot_core.files import naming

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 5 * 10**9
"""Largest file of an export, as transformers writes them."""

WRITTEN = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The dtypes an export may have, by torch's name."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor to write: its name in the new file, shape, dtype (torch's name), and how to make it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)


def write_sharded(
    folder: Path,
    tensors: Sequence[Planned],
    *,
    stem: str = "model",
    shard_bytes: int = SHARD_BYTES,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Write ``model.safetensors``, or its shards and their index, into ``folder`` in the order given.

    ``advance`` is told the bytes written after each tensor.
    """
    shards: list[list[Planned]] = [[]]
    room = shard_bytes
    for tensor in tensors:
        # A tensor larger than a shard gets one of its own; no shard is empty.
        if shards[-1] and tensor.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.nbytes
    if len(shards) == 1:
        path = folder / f"{stem}.safetensors"
        write_file(path, shards[0], advance)
        return [path]
    paths: list[Path] = []
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(path, shard, advance)
        placed |= {tensor.name: path.name for tensor in shard}
        paths.append(path)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors)}, "weight_map": placed}
    (folder / f"{stem}.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )
    return paths


def write_file(
    path: Path, tensors: Sequence[Planned], advance: Callable[[int], None] = lambda _: None
) -> None:
    """One safetensors file: the header from the plan, then each tensor made, written and forgotten."""
    import torch

    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": WRITTEN[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin on a multiple of 8 bytes
    with naming(path), path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)))
        stream.write(text)
        for tensor in tensors:
            made = tensor.make().to(getattr(torch, tensor.dtype)).contiguous()
            if tuple(made.shape) != tensor.shape:
                raise ValueError(f"{tensor.name} was planned as {tensor.shape} and is {tuple(made.shape)}")
            # As bytes: numpy has no bfloat16.
            stream.write(memoryview(made.view(-1).view(torch.uint8).numpy()))
            advance(tensor.nbytes)
