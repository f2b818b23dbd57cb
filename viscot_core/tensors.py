"""The tensors of a checkpoint folder, by stored name, opened lazily and never as code.

Reads ``model.safetensors``, ``pytorch_model.bin`` and their sharded forms. Opening reads headers only; every
fault names the file and the tensor. Tensors read on the CPU are views of the file's private memory mapping,
so a model loaded in its stored dtype costs its own size once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError, DataError
from viscot_core.paths import inside

if TYPE_CHECKING:
    import torch

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Whole-model files in the order they are preferred (safetensors carries no code)."""

_HASH_WHOLE = 1 << 30
_POINTER = b"version https://git-lfs"
_MOST_JSON = 256 << 20
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")
_MOST_LAYERS = 1000
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
"""safetensors' dtypes: torch's name and bytes each."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor on disk: its name there, its file, shape and dtype (torch's name), and how to read it."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], torch.Tensor]


class _Reader:
    """Reads tensors of one opening's files, one file mapped at a time.

    Converting thus never maps the whole model, and two openings never share pages: what is written to one
    loaded model is not seen by the next.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._get: Callable[[str], torch.Tensor] | None = None
        self._lock = Lock()

    def of(self, path: Path, name: str) -> Callable[[], torch.Tensor]:
        """How to read one tensor, when it is wanted."""

        def read() -> torch.Tensor:
            with self._lock:  # transformers reads from several threads at once
                if self._get is None or path != self._path:
                    self._path, self._get = path, _map(path)
                get = self._get
            return get(name)

        return read


def _map(path: Path) -> Callable[[str], torch.Tensor]:
    if path.suffix != ".safetensors":
        pickled: dict[str, torch.Tensor] = load_pickle(path)
        return pickled.__getitem__
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu").get_tensor
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); pull or copy it again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; errors name the file."""
    require_no_pointer(path)
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"larger than {_MOST_JSON >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} is no checkpoint: it has no {path.name}; check --model."
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); pull or copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; pull or copy it again.")
    _require_few_layers(path, content)
    return content


def _require_few_layers(path: Path, config: dict[str, Any]) -> None:
    """`CheckpointError` for layers that would take hours to make, though without weights."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in _LAYERS:
            count = part.get(key)
            if isinstance(count, int) and count > _MOST_LAYERS:
                raise CheckpointError(f"{path}: {key} {count} is more than {_MOST_LAYERS}; correct the file.")


def open_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor of ``folder`` by stored name; headers only.

    Raises:
        CheckpointError: no weights, a missing or damaged shard, an index that does not fit, code in a pickle.
    """
    for name in SINGLE:
        index = folder / f"{name}.index.json"
        if index.exists():
            return _open_sharded(index)
        if (folder / name).exists():
            return open_file(folder / name)
    raise CheckpointError(
        f"{folder} holds no weights (neither {' nor '.join(SINGLE)}, whole or sharded); "
        "check the path or pull the model again."
    )


def require_no_pointer(path: Path) -> None:
    """`CheckpointError` where a file is only git-LFS's note of it: cloned without git-lfs."""
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                f"{path} is a git-LFS pointer, not the file itself; run 'git lfs pull' in its folder, or get "
                "the model with 'viscot models pull'."
            )


def open_file(path: Path, reader: _Reader | None = None) -> dict[str, Stored]:
    """Every tensor of one safetensors or ``.bin`` file."""
    require_no_pointer(path)
    open_one = _open_safetensors if path.suffix == ".safetensors" else _open_pickle
    return open_one(path, reader or _Reader())


def _open_sharded(index: Path) -> dict[str, Stored]:
    try:
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(placed.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is damaged ({error!r}); pull or copy the checkpoint again."
        ) from error
    reader = _Reader()
    tensors: dict[str, Stored] = {}
    for shard in shards:
        try:
            path = inside(index.parent, shard)
        except DataError as error:
            raise CheckpointError(f"{index} is damaged: {error}") from error
        names = [name for name, file in placed.items() if file == shard]
        if not path.exists():
            raise CheckpointError(
                f"{path} is missing: {index.name} places {_some(names)} in it; pull or copy that file again."
            )
        found = _open_shard(path, names, reader)
        for name in names:
            if name not in found:
                raise CheckpointError(
                    f"{index} places '{name}' in {shard}, which does not hold it; the index and the files "
                    "belong to different checkpoints: pull the whole checkpoint again."
                )
            tensors[name] = found[name]
    return tensors


def _open_shard(path: Path, names: list[str], reader: _Reader) -> dict[str, Stored]:
    try:
        return open_file(path, reader)
    except CheckpointError as error:
        if any(f"'{name}'" in str(error) for name in names):
            raise
        raise CheckpointError(f"{error} It should hold {_some(names)}.") from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"'{names[0]}'{more}"


def _open_safetensors(path: Path, reader: _Reader) -> dict[str, Stored]:
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            # Checked first: a damaged length would read the whole file, or ask for more than there is memory.
            if length > size - 8:
                raise ValueError(f"its header wants {length:,} bytes of {size:,}")
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
    except (ValueError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged ({error}); pull or copy it again.") from error
    tensors = {}
    for name, entry in header.items():
        shape, dtype, begin, end = _entry(path, name, entry)
        if 8 + length + end > size:
            raise CheckpointError(
                f"{path} is truncated: '{name}' ends at byte {8 + length + end:,} of {size:,}; "
                "pull or copy it again."
            )
        if dtype not in _DTYPES:
            raise CheckpointError(
                f"{path} stores '{name}' as {dtype}, which viscot does not read; "
                "get the weights in bf16, fp16 or fp32."
            )
        kind, width = _DTYPES[dtype]
        if end - begin != math.prod(shape) * width:
            raise CheckpointError(
                f"{path} is damaged: '{name}' has {end - begin:,} bytes for {list(shape)} in {dtype}; "
                "pull or copy it again."
            )
        tensors[name] = Stored(name, path, shape, kind, reader.of(path, name))
    return tensors


def _entry(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], str, int, int]:
    """Shape, dtype, first and last byte of one tensor of a header."""
    try:
        shape = tuple(int(length) for length in entry["shape"])
        begin, end = (int(place) for place in entry["data_offsets"])
        return shape, str(entry["dtype"]), begin, end
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged: its header does not place '{name}' ({error!r}); pull or copy it again."
        ) from error


def _open_pickle(path: Path, reader: _Reader) -> dict[str, Stored]:
    content = load_pickle(path)
    if not isinstance(content, dict) or not all(hasattr(t, "shape") for t in content.values()):
        raise CheckpointError(f"{path} does not hold named tensors; give the folder of a model's weights.")
    return {
        name: Stored(
            name, path, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), reader.of(path, name)
        )
        for name, tensor in content.items()
    }


def load_pickle(path: Path) -> Any:
    """``torch.load`` that runs no code; memory-mapped where the file's format allows it."""
    import torch

    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # written before torch 1.6
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        if match is None:
            raise CheckpointError(
                f"{path} is damaged (not a readable pickle); pull or copy it again."
            ) from error
        raise CheckpointError(
            f"{path} holds code ({match.group(1)}), not only tensors, and was refused; "
            "get the weights as safetensors from their publisher."
        ) from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # a map of less than its own table says
            raise CheckpointError(f"{path} is damaged or truncated; pull or copy it again.") from error
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # damaged bytes let the unpickler fail in every way Python knows
        reason = str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is damaged or truncated ({reason}); pull or copy it again.") from error


def hash_files(files: Iterable[Path]) -> str:
    """A name for the weights' content: sha256 of the files, whole up to 1 GiB together.

    Beyond that, of each file's size and 64 evenly spaced blocks of 1 MiB (marked ``sampled``): 14 GB in well
    under a second instead of a minute, and still another value for any retrained weights.
    """
    files = list(files)
    whole = sum(file.stat().st_size for file in files) <= _HASH_WHOLE
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{size}\n".encode())
        with file.open("rb") as stream:
            if whole:
                while block := stream.read(1 << 20):
                    digest.update(block)
            else:
                for number in range(64):
                    # The first block at the start, the last at the end.
                    stream.seek(number * max(size - (1 << 20), 0) // 63)
                    digest.update(stream.read(1 << 20))
    return ("" if whole else "sampled-") + digest.hexdigest()
