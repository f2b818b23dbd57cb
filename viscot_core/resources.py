"""Finds the files that ship with viscot and are not code, in a checkout and in an installed wheel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_HERE = Path(__file__).resolve().parent

EXTRAS = {
    "bitsandbytes": "quant",
    "deepspeed": "train",
    "fastapi": "serve",
    "flash_attn": "flash",
    "gradio": "demo",
    "h11": "serve",
    "lmms_eval": "general",
    "num2words": "models",
    "peft": "train",
    "pi_heif": "formats",
    "prometheus_client": "serve",
    "pyarrow": "parquet",
    "pypdfium2": "pdf",
    "starlette": "serve",
    "supervision": "supervision",
    "tensorboard": "train",
    "torchvision": "models",
    "trackio": "trackio",
    "uvicorn": "serve",
    "wandb": "wandb",
}
"""The extra of ``pyproject.toml`` that installs each optional package."""


def install_line(packages: Iterable[str]) -> str:
    """The command that installs optional packages; a package without an extra goes by its own name."""
    known = dict.fromkeys(EXTRAS[name] for name in packages if name in EXTRAS)
    others = [name for name in packages if name not in EXTRAS]
    return " ".join(["pip install", *([f"'viscot[{','.join(known)}]'"] if known else []), *others])


def recipes() -> dict[str, Path]:
    """The shipped recipes by name, tiny first.

    A wheel carries them in ``viscot_core/recipes``, a checkout at its top.
    """
    for folder in (_HERE / "recipes", _HERE.parent / "recipes"):
        found = sorted(
            folder.glob("*.yaml"), key=lambda path: (path.stem != "tiny", len(path.stem), path.stem)
        )
        if found:
            return {path.stem: path for path in found}
    return {}
