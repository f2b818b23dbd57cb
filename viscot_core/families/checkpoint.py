"""A checkpoint, understood: config, manifest, and every tensor of the model with where it lies.

What ``models.checkpoint.open_checkpoint`` returns and a ``Family`` reads, builds and exports. Headers only: a
tensor is read when it is asked for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError
from viscot_core.families.manifest import Manifest
from viscot_core.tensors import Stored

if TYPE_CHECKING:
    import torch

    from viscot_core.families.base import Family

Shape = tuple[int, ...]
LOADING = threading.RLock()
"""Held while a model is loaded. transformers builds models inside process-wide contexts (default dtype, no
initialisation): two at once leave each other's tensors uninitialised, without an error. Where several
threads begin its first import, that fails in all but one."""


class Layout(StrEnum):
    """How a checkpoint's files are written."""

    LLAVA = "llava"
    HF = "hf"


@dataclass(frozen=True, slots=True)
class Delta:
    """A LoRA's change to one matrix: ``weight + scale * b @ a``, computed in float32."""

    a: Stored
    b: Stored
    scale: float

    def require_fit(self, shape: Shape) -> None:
        """Raise a ``CheckpointError`` where the two do not make a change of a matrix of this shape."""
        a, b = self.a.shape, self.b.shape
        if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != shape or a[0] != b[1]:
            raise CheckpointError(
                f"{self.a.file}: '{self.a.name}' {list(a)} and its partner {list(b)} do not fit "
                f"a matrix of {list(shape)}; the adapter belongs to another base model."
            )

    def add_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The merged matrix in the weight's own dtype."""
        change = self.b.read().float() @ self.a.read().float()
        return (weight.float() + self.scale * change).to(weight.dtype)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one tensor of the model comes from, and what is done to it while it is read."""

    stored: Stored
    rows: int | None = None
    """Rows the model wants where more than stored: the image token's and the padding after it."""
    deltas: tuple[Delta, ...] = ()
    """LoRAs' changes to it, in their order: an adapter may stand on another."""

    @property
    def shape(self) -> Shape:
        return self.stored.shape if self.rows is None else (self.rows, *self.stored.shape[1:])

    @property
    def parts(self) -> tuple[Stored, ...]:
        """Every stored tensor that it is made of."""
        return (self.stored, *(part for delta in self.deltas for part in (delta.a, delta.b)))

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    def read(self) -> torch.Tensor:
        """The tensor as the model wants it; a view of the file where nothing is done to it."""
        import torch

        tensor = self.stored.read()
        # Before rows are added: their mean is then that of the merged rows.
        for delta in self.deltas:
            tensor = delta.add_to(tensor)
        if self.rows is None:
            return tensor
        # The mean of the real rows: as a row of the head its logit is the mean logit, never the largest.
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(self.rows - tensor.shape[0], -1)])


@dataclass(slots=True)
class Checkpoint:
    """One model on disk, tensors by module name; the three problem lists are empty when it is whole."""

    family: Family
    path: Path
    layout: Layout
    raw_config: dict[str, Any]
    config: Any
    """transformers' config of the model."""
    manifest: Manifest
    tensors: dict[str, Source]
    text_rows: int
    """Embedding rows of real tokens; ids from here on (the image token, padding) are never generated."""
    tokenizer_folder: Path
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[Stored] = field(default_factory=list)
    misshaped: list[tuple[str, Source, Shape]] = field(default_factory=list)
    part_sizes: Mapping[str, int] | None = None
    """Parameters of each part, where the names of ``tensors`` do not tell it."""

    by_module: bool = True
    """Whether ``tensors`` are named as in memory; else transformers translates the stored names."""
    changes: dict[str, tuple[Delta | Stored, ...]] = field(default_factory=dict)
    """What adapters do to parameters in memory, in their order, where tensors have stored names."""

    def require_whole(self) -> None:
        """Raise a ``CheckpointError`` that names the file and tensor of the first problem."""
        found = [*self._describe_problems()]
        if found:
            more = (
                f" (and {len(found) - 1} more: viscot models inspect {self.path})" if len(found) > 1 else ""
            )
            raise CheckpointError(f"{found[0]}{more}; pull or copy the checkpoint again.")

    def _describe_problems(self) -> list[str]:
        file = next(iter(self.tensors.values())).stored.file if self.tensors else self.path
        return [
            *(
                f"{source.stored.file}: '{source.stored.name}' has the shape {list(source.shape)} where "
                f"config.json asks for {list(wanted)}"
                for _, source, wanted in self.misshaped
            ),
            *(
                f"{file.parent} lacks the tensor '{self.family.stored_name(name, self.layout)}'"
                for name in self.missing
            ),
            *(f"{s.file}: '{s.name}' belongs to no part of this model" for s in self.unexpected),
        ]

    @property
    def files(self) -> list[Path]:
        """Every file a tensor comes from, an adapter's among them, sorted."""
        changed = (
            stored
            for several in self.changes.values()
            for change in several
            for stored in ((change.a, change.b) if isinstance(change, Delta) else (change,))
        )
        parts = (stored for source in self.tensors.values() for stored in source.parts)
        return sorted({stored.file for stored in (*parts, *changed)})

    @property
    def dtype(self) -> str:
        """torch's name of the dtype that most of the weights are stored in."""
        sizes: dict[str, int] = {}
        for source in self.tensors.values():
            sizes[source.stored.dtype] = sizes.get(source.stored.dtype, 0) + source.count
        return max(sizes, key=lambda name: sizes[name]) if sizes else "float32"


def compare(found: Checkpoint, expected: Mapping[str, Shape]) -> None:
    """Fill the three lists of problems; what belongs to no module moves from tensors to unexpected."""
    for name in [n for n in found.tensors if n not in expected]:
        found.unexpected.append(found.tensors.pop(name).stored)
    found.missing = [name for name in expected if name not in found.tensors]
    found.misshaped = [
        (name, source, expected[name])
        for name, source in found.tensors.items()
        if source.shape != expected[name]
    ]


def in_whole_blocks(shape: Sequence[int]) -> bool:
    """Whether bitsandbytes computes with a 4-bit matrix on any CPU: 64 numbers of a row share a scale, and 32
    rows are packed together where the CPU has bf16 (its ``_convert_weight_packed_for_cpu``)."""
    return shape[-1] % 64 == 0 and shape[0] % 32 == 0


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a model is put into memory: keyword arguments of transformers' ``from_pretrained``, resolved."""

    dtype: torch.dtype
    attention: str
    device_map: Any = None
    load_in: str | None = None

    def quantization(self, precise: Sequence[str]) -> Any:
        """bitsandbytes' config for ``load_in``, or None; modules whose names begin as ``precise`` stay."""
        if self.load_in is None:
            return None
        from transformers import BitsAndBytesConfig

        if self.load_in == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(precise))
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=self.dtype,
            llm_int8_skip_modules=list(precise),
        )
