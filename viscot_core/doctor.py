"""What this machine has and which models fit: findings ``ok``, ``warn`` or ``missing``, each with its fix.

    for finding in examine():
        print(finding.state, finding.name, finding.text, finding.fix)

Findings are yielded one by one, fast ones first. Whether a model or a recipe fits is marked as an estimate.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viscot_core import hardware, torch_builds
from viscot_core.hardware import GIB

if TYPE_CHECKING:
    from viscot_core.models.known import ZooModel

LITTLE_DISK_GIB = 20.0  # a 7B checkpoint is 14 GB
LITTLE_MEMORY_GIB = 4.0
ESSENTIAL = ("torch", "transformers", "accelerate")
OPTIONAL = {
    "deepspeed": ("train", "training on several GPUs"),
    "peft": ("train", "LoRA"),
    "bitsandbytes": ("quant", "--load-in 8bit or 4bit"),
    "flash-attn": ("flash", "--attn flash"),
    "gradio": ("demo", "viscot demo"),
    "fastapi": ("serve", "viscot serve"),
    "lmms-eval": ("general", "viscot bench general"),
}
NEEDS_CUDA = ("flash-attn",)
NECESSARY = (*ESSENTIAL, "torchvision")
"""Nothing works while one of them is ``missing``: torchvision is so where it is there and does not fit."""

State = Literal["ok", "warn", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``fix`` is what to do, or empty."""

    group: str
    name: str
    state: State
    text: str
    fix: str = ""


def examine(*, measure: bool = True) -> Iterator[Finding]:
    """Every finding, in the order of the report; ``measure=False`` skips the CPU timing (a second)."""
    yield _python()
    for name in ESSENTIAL:
        yield _essential(name)
    for name in OPTIONAL:
        yield _optional(name)
    yield _torchvision()
    yield from _gpus()
    yield _memory()
    if measure:
        yield _cpu_speed()
    yield _disk(Path.cwd(), "disk here")
    yield from _hub()
    yield from _checkpoints()
    yield from _recipes()


# -- software --------------------------------------------------------------------------------------


def _python() -> Finding:
    return Finding("software", "python", "ok", f"{platform.python_version()} at {sys.executable}")


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None; imports nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _floors() -> dict[str, str]:
    """The versions that viscot's metadata requires: ``{"torch": ">=2.6", ...}``, extras included."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in metadata.requires("viscot") or ()]
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return {}
    return {one.name.lower(): str(one.specifier) for one in asked}


def _too_old(package: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return not SpecifierSet(_floors().get(package, "")).contains(version, prereleases=True)


def _essential(name: str) -> Finding:
    version = version_of(name)
    if version is None:
        return Finding("software", name, "missing", "not installed", f"pip install {name}")
    if _too_old(name, version):
        return Finding("software", name, "warn", version, f"pip install '{name}{_floors()[name]}'")
    return Finding("software", name, "ok", version)


def _optional(name: str) -> Finding:
    extra, use = OPTIONAL[name]
    version, fix = version_of(name), f"pip install 'viscot[{extra}]'"
    if version is None and name in NEEDS_CUDA and not hardware.gpus():
        return Finding("software", name, "ok", f"not installed; only useful with a GPU ({use})")
    if version is None:
        return Finding("software", name, "missing", f"needed for {use}", fix)
    if _too_old(name, version):
        return Finding("software", name, "warn", f"{version} is older than {_floors()[name]}", fix)
    return Finding("software", name, "ok", version)


def _torchvision() -> Finding:
    """Some families do without it; one that does not fit torch leaves no model that can be loaded."""
    name, version = "torchvision", version_of("torchvision")
    if wrong := torch_builds.misfit():
        return Finding("software", name, "missing", f"{wrong}: no model can be loaded", torch_builds.mend())
    if version is None:
        text = "not installed; processors of some families need it (Qwen-VL and others)"
        return Finding(
            "software", name, "ok", text, torch_builds.install_models() if version_of("torch") else ""
        )
    if _too_old(name, version):
        text = f"{version} is older than {_floors()[name]}"
        return Finding("software", name, "warn", text, torch_builds.install_models())
    return Finding("software", name, "ok", version)


# -- hardware --------------------------------------------------------------------------------------


def _gpus() -> Iterator[Finding]:
    import torch

    built = torch.version.cuda
    if not hardware.gpus():
        seen = Path("/proc/driver/nvidia/version").exists()
        text = "none; models run on the CPU" + ("" if built else " (torch is a CPU build)")
        fix = (
            "there is an NVIDIA driver, but torch finds no GPU: install a CUDA build of torch" if seen else ""
        )
        yield Finding("hardware", "cuda", "warn" if seen else "ok", text, fix)
        return
    yield Finding("hardware", "cuda", "ok", f"torch is built for CUDA {built}")
    for index, gpu in enumerate(hardware.gpus()):
        busy = gpu.free < 0.5 * gpu.total
        text = f"{gpu.name}, {gpu.free:.1f} of {gpu.total:.1f} GiB free"
        fix = "another process uses most of its memory" if busy else ""
        yield Finding("hardware", f"gpu {index}", "warn" if busy else "ok", text, fix)


def _memory() -> Finding:
    ram = hardware.ram_gib()
    text = f"{hardware.cores()} CPU cores, {ram:.1f} GiB of memory"
    if ram < LITTLE_MEMORY_GIB:
        return Finding("hardware", "memory", "warn", text, "only the bundled model fits")
    return Finding("hardware", "memory", "ok", text)


def _cpu_speed() -> Finding:
    speeds = {"fp32": hardware.measure_cpu("fp32"), "bf16": hardware.measure_cpu("bf16")}
    fastest = min(speeds, key=lambda name: speeds[name].answer_seconds())
    text = ", ".join(f"{name} {s.gflops:.3g} Gflop/s and {s.gbytes:.2g} GB/s" for name, s in speeds.items())
    seconds = speeds[fastest].answer_seconds()
    text += f": {fastest} is faster (--dtype {fastest}), a 7B answer about {seconds:.0f} s (estimate)"
    return Finding("hardware", "cpu speed", "ok", text)


# -- disk and hub ----------------------------------------------------------------------------------


def _disk(folder: Path, name: str) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / GIB
    text = f"{free:.1f} GiB free at {folder}"
    if not os.access(there, os.W_OK):
        return Finding("disk", name, "warn", f"{folder} is not writable", "choose another folder")
    if free < LITTLE_DISK_GIB:
        return Finding("disk", name, "warn", text, "a 7B checkpoint needs 14 GiB, the images more")
    return Finding("disk", name, "ok", text)


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    from viscot_core.models import zoo

    yield _disk(zoo.hub_cache() or Path(constants.HF_HUB_CACHE), "model cache")
    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "disk", "hub", "warn", "HF_HUB_OFFLINE is set: models cannot be pulled", "unset it to pull models"
        )
    else:
        token = (
            "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN; the released models need none"
        )
        yield Finding("disk", "hub", "ok", f"{constants.ENDPOINT} ({token})")


# -- what fits -------------------------------------------------------------------------------------


def _checkpoints() -> Iterator[Finding]:
    """Each known model: the most bits a weight at which it fits, by the estimate of ``ZooModel.gpu_gb``:

    (parameters x bits / 8, tower and head in 16 bits at least) x 1.1 + 1 GB <= the memory of all GPUs,
    or RAM where there is none. 16 is bf16; 8 and 4 are ``--load-in``.
    """
    from viscot_core.models import zoo

    memory = sum(gpu.total for gpu in hardware.gpus()) or hardware.ram_gib()
    where = f"{len(hardware.gpus())} GPU(s)" if hardware.gpus() else "the CPU"
    for model in zoo.answering().values():
        if model.hub is None and zoo.location(model) is None:
            yield Finding("models", model.name, "missing", "not in this installation", "reinstall viscot")
        else:
            yield _checkpoint(model, memory, where)


def _checkpoint(model: ZooModel, memory: float, where: str) -> Finding:
    from viscot_core.models import zoo

    cached = model.hub is None or zoo.cached(model.hub) is not None
    have = "on this machine" if cached else "not pulled"
    # How to pull them is said once, by `models list`; what is special is said here.
    pull = f"viscot models pull {model.name}" if model.kind != "chat" else ""
    if model.gated:
        pull = f"accept its license at {model.source} and set HF_TOKEN before it is pulled"
    need = {bits: gigabytes for bits in (16, 8, 4) if (gigabytes := model.gpu_gb(bits)) is not None}
    if not need:
        return Finding("models", model.name, "ok", f"{have}; its size is not known", "" if cached else pull)
    fits = next((bits for bits, gigabytes in need.items() if gigabytes * 1e9 / GIB <= memory), None)
    if fits is None:
        text = f"too large for {where}: {need[4]:g} GB even in 4 bit"
        return Finding("models", model.name, "warn", text, "run it elsewhere: --model http://HOST/v1#NAME")
    if fits == 16:
        text = f"{have}; fits {where} in 16 bit ({need[16]:g} GB)"
        return Finding("models", model.name, "ok", text, "" if cached else pull)
    fix = f"--load-in {fits}bit" + ("" if version_of("bitsandbytes") else ", with viscot[quant]")
    return Finding(
        "models", model.name, "warn", f"{have}; fits {where} in {fits} bit ({need[fits]:g} GB)", fix
    )


def _recipes() -> Iterator[Finding]:
    from viscot_core import resources

    if not resources.recipes():
        fix = "reinstall viscot: its recipes are missing"
        yield Finding("recipes", "recipes", "missing", "none found", fix)
    for name in resources.recipes():
        yield _recipe(name)


def _recipe(name: str) -> Finding:
    """Whether this machine has the estimated memory of each stage at one sample per GPU."""
    from viscot_core.train.plan import estimates
    from viscot_core.train.recipe.base_model import shape_of
    from viscot_core.train.recipe.load import load_recipe

    recipe = load_recipe(name)
    shape = shape_of(recipe.model)
    if shape is None:
        return Finding("recipes", name, "warn", "unknown size", f"viscot train --recipe {name} --dry-run")
    have = min((gpu.total for gpu in hardware.gpus()), default=hardware.ram_gib())
    need = max(estimates.memory_gib(shape, stage, 1, len(hardware.gpus()) or 1) for stage in recipe.stages)
    unit = f"each of {len(hardware.gpus())} GPU(s)" if hardware.gpus() else "the CPU"
    text = f"needs about {need:.0f} GiB on {unit}, has {have:.0f} (estimate)"
    if need > have:
        fix = f"plan it for another machine: viscot train --recipe {name} --dry-run --gpus 8 --gpu-memory 80"
        return Finding("recipes", name, "warn", text, fix)
    if not hardware.gpus() and shape.total > 5e8:
        return Finding("recipes", name, "warn", f"{text}, but a CPU would take months", "use a GPU")
    return Finding("recipes", name, "ok", text)
