"""The checkpoint as lmms-eval loads it: for viscot's own class as it is, else exported once into a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from viscot_core.engines.open import EngineOptions
from viscot_core.errors import UsageError
from viscot_core.files import cache_folder


@dataclass(frozen=True)
class ModelForLmms:
    """What lmms-eval is told to load: a folder or an address, its weights' digest, device and dtype."""

    model: str
    weights: str
    device: str
    dtype: str
    """torch's name; a server's is its own."""
    family: str = ""


def model_for_lmms(engine: EngineOptions, backend: str) -> ModelForLmms:
    """The model for one of lmms-eval's classes, exported where that class needs it.

    Raises:
        CheckpointError, EngineError, UsageError: it cannot be loaded so; as ``load_model`` says.
    """
    if engine.is_server:
        return ModelForLmms(str(engine.model), "a server's", engine.device, engine.dtype)
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.exported import exported
    from viscot_core.models.load import choose_device, choose_dtype
    from viscot_core.models.zoo import resolve
    from viscot_core.tensors import hash_files

    checkpoint = open_checkpoint(resolve(engine.model), engine.base)
    checkpoint.require_whole()
    weights = hash_files(checkpoint.files)
    device = choose_device(engine.device)
    dtype = str(choose_dtype(engine.dtype, device, checkpoint)).removeprefix("torch.")
    path = checkpoint.path if backend == "viscot" else exported(checkpoint, weights)
    path = without_bos(path) if backend == "llava_hf" else path
    # Its --model_args are NAME=VALUE pairs between commas, with no way to quote.
    if {",", "="} & set(str(path)):
        raise UsageError(
            f"lmms-eval cannot read a path with a comma or '=' ({path}); move or link the model."
        )
    return ModelForLmms(str(path), weights, device, dtype, checkpoint.family.name)


def without_bos(model: Path, cache: Path | None = None) -> Path:
    """The same folder with a chat template that writes no BOS, in ``cache``; its other files are links.

    lmms-eval's llava_hf renders the template to text and lets the processor tokenize it. Where that adds a
    BOS of its own there would be two, and other answers; elsewhere the folder is right as it is.
    """
    template = model / "chat_template.jinja"
    words = template.read_text(encoding="utf-8")
    plain = words.replace("{{- bos_token }}", "", 1).replace("{{ bos_token }}", "", 1)
    if plain == words or not _adds_bos(model):
        return model
    name = hashlib.sha256(f"{model.resolve()}\0{plain}".encode()).hexdigest()[:16]
    view = (cache or cache_folder("exports")) / f"{model.name}-no-bos-{name}"
    # Built under a name of its own and renamed: another process never sees it half done.
    building = view.with_name(f".{view.name}.{os.getpid()}")
    building.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file != template:
            (building / file.name).symlink_to(file.resolve())
    (building / template.name).write_text(plain, encoding="utf-8")
    shutil.rmtree(view, ignore_errors=True)
    building.replace(view)
    return view


def _adds_bos(model: Path) -> bool:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return tokenizer.bos_token_id is not None and tokenizer("x").input_ids[0] == tokenizer.bos_token_id
