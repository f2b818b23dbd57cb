"""The model a recipe names as one checkpoint: a whole one, or a language model, a tower and a projector.

Headers only are read: it tells in a second what is missing or does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.checkpoint import Checkpoint, Layout, Source, compare
from viscot_core.families.llava import training
from viscot_core.families.llava.family import FAMILY, expected_shapes
from viscot_core.families.llava.gather import PROJECTOR_FILES
from viscot_core.families.manifest import Manifest
from viscot_core.files import expanded
from viscot_core.models import zoo
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.tensors import open_file, open_weights
from viscot_core.train.recipe.schema import ModelSpec


def open_base(model: ModelSpec) -> Checkpoint:
    """The recipe's model as one checkpoint.

    Raises:
        CheckpointError: a part is not on this machine or of another kind, a projector of another width, no
            tokenizer.
    """
    if model.checkpoint:
        found = open_checkpoint(zoo.resolve(model.checkpoint))
        if found.family is not FAMILY:
            raise CheckpointError(
                f"model.checkpoint: viscot trains LLaVA and Visual CoT models, and {model.checkpoint} is "
                f"another ({_kind(found)}); name one of those."
            )
    else:
        found = _from_parts(model)
    found.require_whole()
    return found


def _kind(found: Checkpoint) -> str:
    kinds = found.raw_config.get("architectures") or [found.raw_config.get("model_type")]
    return str(kinds[0])


def _from_parts(model: ModelSpec) -> Checkpoint:
    llm, tower = zoo.resolve(model.base_llm), zoo.resolve(model.vision_tower)
    raw, config = training.config_from_parts(
        llm,
        tower,
        names=(str(model.base_llm), str(model.vision_tower)),
        feature_layer=model.feature_layer,
        projector_type=model.projector_type,
    )
    tensors = _named(llm, training.llm_module_name) | _named(tower, training.tower_module_name)
    if model.projector:
        tensors |= _projector(model.projector, config)
    rows, wanted = int(raw["vocab_size"]), config.text_config.vocab_size
    for name in training.EMBEDDINGS:
        if name in tensors and rows < wanted:
            tensors[name] = Source(tensors[name].stored, rows=wanted)
    manifest = Manifest(
        name=llm.name,
        template=model.template,
        turn_tokens=model.turn_tokens,
        image_side=training.image_side(config),
    )
    found = Checkpoint(FAMILY, llm, Layout.LLAVA, raw, config, manifest, tensors, rows, llm)
    compare(found, expected_shapes(config))
    if not model.projector:  # it starts at random
        found.missing = [name for name in found.missing if training.part_of(name) != "projector"]
    return found


def _named(folder: Path, module_name: Callable[[str], str | None]) -> dict[str, Source]:
    named = ((module_name(name), tensor) for name, tensor in open_weights(folder).items())
    return {module: Source(tensor) for module, tensor in named if module is not None}


def _projector(name: str, config: Any) -> dict[str, Source]:
    """A projector by file, folder or pulled hub name."""
    stored = open_file(_projector_file(name)).items()
    found = {training.projector_module_name(key): Source(tensor) for key, tensor in stored}
    training.require_projector_fits(name, {key: source.shape for key, source in found.items()}, config)
    return found


def _projector_file(name: str) -> Path:
    path = expanded(name)
    if path.is_file():
        return path
    folder = path if path.is_dir() else zoo.resolve(name)
    files = ("projector.safetensors", *PROJECTOR_FILES)
    present = [folder / file for file in files if (folder / file).exists()]
    if not present:
        raise CheckpointError(f"{folder} holds no projector ({', '.join(files)}); name the file itself.")
    return present[0]
