"""Load a model: a name or a folder in, a ready transformers model with its tokenizer and manifest out."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError, EngineError, UsageError
from viscot_core.families.base import Family, Processor
from viscot_core.families.checkpoint import LOADING, BuildOptions, Checkpoint
from viscot_core.families.manifest import Manifest
from viscot_core.hardware import free_memory
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.zoo import resolve_answering
from viscot_core.tensors import hash_files

if TYPE_CHECKING:
    import torch

ATTENTION = {"sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}
"""transformers' names of what ``--attn`` takes."""
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
LOAD_IN = ("4bit", "8bit")


class _Once(logging.Filter):
    """Lets each message through once: bitsandbytes repeats one about dtypes for every layer and token."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        said = str(record.msg) in self._said
        self._said.add(str(record.msg))
        return not said


_ONCE = _Once()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory with its family's way to speak to it."""

    model: Any
    family: Family
    processor: Processor
    manifest: Manifest
    path: Path
    weights_hash: str
    load_in: str | None = None


def load_model(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    load_in: str | None = None,
    attn: str = "sdpa",
    base: str | Path | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    thinking: bool = False,
) -> LoadedModel:
    """Load a checkpoint of either layout; without a name, the bundled viscot-tiny.

    Args:
        device: ``auto`` (the GPUs where there are any, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` (see ``choose_dtype``) or ``fp32``, ``fp16``, ``bf16`` (torch's names too).
        load_in: ``4bit`` or ``8bit`` through bitsandbytes.
        attn: ``sdpa``, ``flash`` (needs flash-attn) or ``eager``.
        base: an adapter's base, instead of the one that its config names.
        min_pixels, max_pixels: limits of what an image is resized to, where a model reads any size.
        thinking: whether the model is to think before it answers, where its chat template leaves the choice.

    Raises:
        CheckpointError: unknown, damaged or of another kind; names the file and the tensor.
        EngineError: a missing extra, a device that is not there, or too little memory.
    """
    if attn not in ATTENTION:
        raise UsageError(f"--attn is one of {', '.join(ATTENTION)}, not '{attn}'.")
    if load_in is not None and load_in not in LOAD_IN:
        raise UsageError(f"--load-in is 4bit or 8bit, not '{load_in}'.")
    with LOADING:
        checkpoint = open_checkpoint(resolve_answering(name_or_path), base)
        checkpoint.require_whole()
        processor = checkpoint.family.processor(checkpoint, min_pixels, max_pixels, thinking=thinking)
        place = choose_device(device)
        kind = choose_dtype(dtype, place, checkpoint)
        if attn == "flash":
            _check_flash(place, kind)
        model = build(checkpoint, place, kind, load_in, ATTENTION[attn])
    return LoadedModel(
        model=model,
        family=checkpoint.family,
        processor=processor,
        manifest=checkpoint.manifest,
        path=checkpoint.path,
        weights_hash=hash_files(checkpoint.files),
        load_in=load_in,
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """A model before it is loaded: its name, the bytes of its weights, the device that will hold them."""

    name: str
    weights: int
    device: str


def expect(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    load_in: str | None = None,
    base: str | Path | None = None,
) -> Expected:
    """What ``load_model`` would load, with its arguments and errors; reads headers only."""
    checkpoint = open_checkpoint(resolve_answering(name_or_path), base)
    checkpoint.require_whole()
    place = choose_device(device)
    kind = choose_dtype(dtype, place, checkpoint)
    return Expected(checkpoint.manifest.name, _weight_bytes(checkpoint, kind, load_in), place)


def _weight_bytes(checkpoint: Checkpoint, dtype: torch.dtype, load_in: str | None) -> int:
    each = {"4bit": 0.6, "8bit": 1.1}.get(load_in or "", float(dtype.itemsize))
    return round(sum(source.count for source in checkpoint.tensors.values()) * each)


def choose_device(device: str) -> str:
    """``auto`` -> ``cuda`` or ``cpu``; any other name is checked.

    Raises:
        UsageError: not the name of a device.
        EngineError: the device is not on this machine.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", device)
    if match is None:
        raise UsageError(f"There is no device '{device}'; use auto, cpu, cuda, cuda:1 or mps.")
    kind, number = match[1], int(match[2] or 0)
    found = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[kind]
    if number >= found:
        have = f"; it has {found}, counted from 0" if found else ""
        raise EngineError(
            f"This machine has no '{device}' that torch can use{have}; try --device cpu (viscot doctor)."
        )
    return kind if kind == "cpu" else device


def choose_dtype(dtype: str, device: str, checkpoint: Checkpoint) -> torch.dtype:
    """``auto``: bf16 on a GPU (fp16 where it has none); on the CPU fp32, which gives the reference's numbers,
    while it takes at most half of the free memory, else bf16 (fp16 is several times slower there).
    """
    import torch

    if dtype != "auto":
        found = getattr(torch, DTYPES.get(dtype, dtype), None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise UsageError(f"--dtype is auto, {', '.join(DTYPES)}, not '{dtype}'.")
        return found
    if device.startswith("cuda"):
        # Without the flag, torch says yes for older GPUs too, where it emulates bf16.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    count = sum(source.count for source in checkpoint.tensors.values())
    return torch.float32 if count * 4 <= free_memory() / 2 else torch.bfloat16


def _check_flash(device: str, dtype: torch.dtype) -> None:
    if not device.startswith("cuda"):
        raise UsageError("--attn flash needs a CUDA GPU; leave it out on this device.")
    if dtype.itemsize != 2:
        raise UsageError("--attn flash computes in 16 bit; give --dtype bf16 or fp16 with it.")
    _need("flash_attn", "--attn flash", "flash")


def _need(module: str, option: str, extra: str) -> None:
    """Raise an EngineError where the package that an option uses is not installed."""
    if find_spec(module) is None:
        raise EngineError(f"{option} needs {module}; install it with: pip install 'viscot[{extra}]'.")


def build(
    checkpoint: Checkpoint, device: str, dtype: torch.dtype, load_in: str | None, attention: str
) -> Any:
    """The model of an opened checkpoint, its tensors read as they are placed (what is missing starts at
    random).

    Arguments are those of ``load_model``, resolved; ``attention`` is transformers' name of it. Raises
    EngineError where an extra or memory is missing.
    """
    import torch
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()
    if load_in is not None:
        _need("bitsandbytes", f"--load-in {load_in}", "quant")
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_ONCE)
        # It looks for a faster kernel on the hub and warns that there is none; the answer is the same.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    place = _device_map(device, checkpoint, dtype, load_in)
    options = BuildOptions(dtype, attention, place, load_in)
    try:
        with LOADING:
            model = checkpoint.family.build(checkpoint, options).eval()
        _require_numbers(model, checkpoint)
        return model
    except torch.cuda.OutOfMemoryError as error:
        raise EngineError(
            f"{checkpoint.manifest.name} does not fit in the GPU's memory; try --load-in 4bit (or 8bit), "
            "a smaller model, or --device cpu."
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise EngineError(
            f"{checkpoint.manifest.name} does not fit in this machine's memory; try --dtype bf16, "
            "--load-in 4bit or a smaller model."
        ) from error


def _require_numbers(model: Any, checkpoint: Checkpoint) -> None:
    for name, parameter in model.named_parameters():
        # Quantised weights are integers; what accelerate keeps on the disk is not here.
        of_numbers = parameter.is_floating_point() and parameter.dtype.itemsize > 1
        if not of_numbers or parameter.device.type == "meta" or not parameter.numel():
            continue
        if not_finite := what_is_not_finite(parameter.data):
            raise CheckpointError(f"{checkpoint.path}: '{name}' holds {not_finite}.")


def what_is_not_finite(tensor: torch.Tensor, dtype: str | None = None) -> str | None:
    """What in ``tensor`` is no number in ``dtype`` (torch's name; its own), in words; None where all are."""
    import torch

    # One pass without a copy; NaN wins over every number in both.
    least, most = (float(end) for end in torch.aminmax(tensor))
    if math.isnan(least):
        return "NaN: these weights are damaged, or training diverged; take an earlier checkpoint"
    if math.isinf(least) or math.isinf(most):
        return "infinity: these weights are damaged, or beyond the range of their type; use another --dtype"
    if dtype is not None and max(-least, most) > torch.finfo(getattr(torch, dtype)).max:
        return f"{max(-least, most):g}, beyond the range of {dtype}; use --dtype bf16 or fp32"
    return None


def _device_map(device: str, checkpoint: Checkpoint, dtype: torch.dtype, load_in: str | None) -> Any:
    """None on the CPU, one GPU where the weights fit, else ``auto``: accelerate spreads the layers."""
    import torch

    if device == "cpu":
        return None
    if device == "cuda" and torch.cuda.device_count() > 1:
        free, _ = torch.cuda.mem_get_info(0)
        if _weight_bytes(checkpoint, dtype, load_in) > 0.85 * free:
            return "auto"
    return {"": device if device != "cuda" else "cuda:0"}
