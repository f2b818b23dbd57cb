"""A base language model, a CLIP tower and a projector as one checkpoint: what stage 1 and 2 start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.checkpoint import Checkpoint, Layout, Source, compare
from viscot_core.families.llava import gather as parts
from viscot_core.families.llava import layouts
from viscot_core.families.llava.family import FAMILY, expected_shapes
from viscot_core.families.llava.tokenizer import token_count
from viscot_core.families.manifest import Manifest
from viscot_core.files import expanded
from viscot_core.models import zoo
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.tensors import open_file, open_weights, read_json
from viscot_core.train.schema import ModelSpec

_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


def open_base(model: ModelSpec) -> Checkpoint:
    """The recipe's model as one checkpoint: headers only are read.

    Raises:
        CheckpointError: a part is not on this machine or of another kind, a projector of another width, no
            tokenizer.
    """
    found = open_checkpoint(zoo.resolve(model.checkpoint)) if model.checkpoint else _assembled(model)
    found.require_whole()
    return found


def _assembled(model: ModelSpec) -> Checkpoint:
    llm, tower = zoo.resolve(model.base_llm), zoo.resolve(model.vision_tower)
    raw, vision = _configs(model, llm, tower)
    config = layouts.config_from_llava(raw, vision, token_count(llm))
    tensors = _named(llm, lambda name: layouts.module_name(name, Layout.LLAVA))
    tensors |= _named(tower, layouts.clip_module_name)
    if model.projector:
        tensors |= _projector(model.projector, config)
    rows, wanted = int(raw["vocab_size"]), config.text_config.vocab_size
    for name in _EMBEDDINGS:
        if name in tensors and rows < wanted:
            tensors[name] = Source(tensors[name].stored, rows=wanted)
    side = int(config.vision_config.image_size)
    manifest = Manifest(
        name=llm.name, template=model.template, turn_tokens=model.turn_tokens, image_side=side
    )
    found = Checkpoint(FAMILY, llm, Layout.LLAVA, raw, config, manifest, tensors, rows, llm)
    compare(found, expected_shapes(config))
    if not model.projector:
        found.missing = [name for name in found.missing if not name.startswith(layouts.PROJECTOR)]
    return found


def _configs(model: ModelSpec, llm: Path, tower: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The language model's config with LLaVA's fields, and the tower's; each of its kind."""
    raw, stated = read_json(llm / "config.json"), read_json(tower / "config.json")
    vision = stated.get("vision_config", stated)
    if "vocab_size" not in raw:
        raise CheckpointError(f"model.base_llm: {llm} is no language model (no vocab_size); name another.")
    if "patch_size" not in vision:
        raise CheckpointError(f"model.vision_tower: {tower} is no CLIP tower (no patch_size); name another.")
    layers = int(vision.get("num_hidden_layers", 24))
    if not -layers - 1 <= model.feature_layer <= layers:
        raise CheckpointError(
            f"model.feature_layer: {model.feature_layer} - {tower} has {layers} layers; give one of them."
        )
    fields = {
        "mm_projector_type": model.projector_type,
        "mm_vision_select_layer": model.feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": str(model.vision_tower),
        "_name_or_path": str(model.base_llm),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
    }
    return raw | fields, vision


def _named(folder: Path, module_name: Callable[[str], str | None]) -> dict[str, Source]:
    named = ((module_name(name), tensor) for name, tensor in open_weights(folder).items())
    return {module: Source(tensor) for module, tensor in named if module is not None}


def _projector(name: str, config: Any) -> dict[str, Source]:
    """A projector by file, folder or pulled hub name; the reference's names and ours are read."""
    found = {}
    for stored_name, tensor in open_file(_projector_file(name)).items():
        short = stored_name.split("mm_projector.")[-1].split("multi_modal_projector.")[-1]
        layer, _, kind = short.partition(".")
        place = {"0": "linear_1", "2": "linear_2"}.get(layer, layer)
        found[f"{layouts.PROJECTOR}{place}.{kind}"] = Source(tensor)
    first = found.get(f"{layouts.PROJECTOR}linear_1.weight")
    wanted = int(config.vision_config.hidden_size), int(config.text_config.hidden_size)
    if first is not None and first.shape[::-1] != wanted:
        raise CheckpointError(
            f"model.projector: {name} turns features of width {first.shape[1]} into {first.shape[0]}, and "
            f"this model needs {wanted[0]} into {wanted[1]}; give the projector of this tower and language "
            "model, or train one with --set model.projector=null."
        )
    return found


def _projector_file(name: str) -> Path:
    path = expanded(name)
    if path.is_file():
        return path
    folder = path if path.is_dir() else zoo.resolve(name)
    files = ("projector.safetensors", *parts.PROJECTOR_FILES)
    present = [folder / file for file in files if (folder / file).exists()]
    if not present:
        raise CheckpointError(f"{folder} holds no projector ({', '.join(files)}); name the file itself.")
    return present[0]
