"""The parts a checkpoint may leave out, found elsewhere: the base under a projector, the vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.base import Files, Sibling
from viscot_core.families.checkpoint import Shape
from viscot_core.families.llava import layouts
from viscot_core.families.llava.tokenizer import SENTENCEPIECE
from viscot_core.tensors import SINGLE, Stored, open_file, open_weights, read_json

PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")
PROJECTOR_NAMES = ("mm_projector.", "multi_modal_projector.")
"""What the projector's tensors are called in the original layout and in transformers'."""


def gather(path: Path, raw: dict[str, Any], sibling: Sibling) -> Files:
    """What a checkpoint's folder holds, and what completes it.

    A projector file completes a plain Llama's folder (LLaVA-1.5's choices stand in for what its config does
    not say), and the base model that the config names completes a folder with nothing but a projector. Beside
    whole weights of either layout, as LLaVA-1.5 and viscot's training write it, a projector file is a copy
    and is not read.

    Raises:
        CheckpointError: no weights, or a base that is not on this machine.
    """
    projector = projector_file(path)
    if projector is None or has_weights(path):
        stored = open_weights(path)
        if projector is None or any(mark in name for name in stored for mark in PROJECTOR_NAMES):
            return Files(path, raw, stored, path)
        return Files(path, _llava_fields(raw), stored | _projector_tensors(projector), path)
    base = raw.get("_name_or_path")
    if not base:
        raise CheckpointError(f"{path} holds only a projector, and its config.json names no base model.")
    folder = sibling(str(base), path)
    stored = open_weights(folder) | _projector_tensors(projector)
    return Files(path, raw, stored, path if (path / SENTENCEPIECE).exists() else folder)


def projector_file(path: Path) -> Path | None:
    """The projector's own file in a folder, or None."""
    return next((path / name for name in PROJECTOR_FILES if (path / name).exists()), None)


def has_weights(path: Path) -> bool:
    """Whether a folder holds a model's weights, whatever else it holds."""
    return any((path / f"{name}{end}").exists() for name in SINGLE for end in ("", ".index.json"))


def _projector_tensors(file: Path) -> dict[str, Stored]:
    """``mm_projector.bin``'s tensors under the names the original layout gives them."""
    return {f"model.mm_projector.{name.split('mm_projector.')[-1]}": t for name, t in open_file(file).items()}


def _llava_fields(raw: dict[str, Any]) -> dict[str, Any]:
    assumed = {
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    return assumed | raw


def tower(
    path: Path, raw: Mapping[str, Any], shapes: Mapping[str, Shape], sibling: Sibling
) -> tuple[dict[str, Any], dict[str, Stored], str]:
    """The vision tower of an original checkpoint: its config, the tensors to add, a note for ``inspect``.

    A tower inside the checkpoint (``shapes`` by module name) needs no CLIP repository: its shape is read off
    its tensors, and only the number of heads comes from a config that happens to be at hand.

    Raises:
        CheckpointError: it is neither inside nor on this machine.
    """
    name = layouts.tower_name(raw)
    inside = any(key.startswith(layouts.TOWER) for key in shapes)
    folder = _tower_folder(name, path, inside, sibling)
    stated = read_json(folder / "config.json") if folder else {}
    # A CLIP repository's config holds both halves; a tower's own is the vision half itself.
    stated = stated.get("vision_config", stated)
    if inside:
        if "num_attention_heads" not in stated:
            note = f"the tower's config ({name}) is not here: its heads are taken to be 64 wide"
            return layouts.tower_config_from_shapes(shapes), {}, note
        read = layouts.tower_config_from_shapes(shapes, heads=int(stated["num_attention_heads"]))
        return read | {key: stated[key] for key in ("hidden_act", "layer_norm_eps") if key in stated}, {}, ""
    if folder is None:
        raise CheckpointError("it has no vision tower, and its config.json names none (mm_vision_tower).")
    added = {layouts.clip_module_name(key): tensor for key, tensor in open_weights(folder).items()}
    note = f"the vision tower comes from {folder}"
    return stated, {module: tensor for module, tensor in added.items() if module is not None}, note


def absent_tower(path: Path, raw: Mapping[str, Any], sibling: Sibling) -> str | None:
    """The name of the vision tower that a checkpoint leaves out and this machine does not have, or None."""
    name = layouts.tower_name(raw)
    # The dot in front lets a name that begins with the part be found as one inside a longer name.
    if name is None or any(".vision_tower." in f".{key}" for key in open_weights(path)):
        return None
    try:
        sibling(name, path)
    except CheckpointError:
        return name
    return None


def what_part(path: Path, raw: Mapping[str, Any]) -> str | None:
    """What a folder that is a part of a model is for, once its tensors are known to be there; else None."""
    projector = projector_file(path)
    if projector and not has_weights(path):
        open_file(projector)
        return "this is a projector alone: for training, as a recipe's model.projector"
    if str(raw.get("model_type")).startswith("clip"):
        open_weights(path)
        return "this is a vision tower: it sees for a model, or for a recipe's model.vision_tower"
    if projector is None and layouts.is_text_only(raw):
        open_weights(path)
        return "this is a text-only model: for training, as a recipe's model.base_llm"
    return None


def _tower_folder(name: str | None, path: Path, inside: bool, sibling: Sibling) -> Path | None:
    if name is None:
        return None
    try:
        return sibling(name, path)
    except CheckpointError as error:
        if inside:
            return None
        if "clip" not in name.lower():
            raise CheckpointError(
                f"its vision tower is '{name}'; viscot reads CLIP towers only: give another checkpoint."
            ) from None
        raise CheckpointError(f"its vision tower is not inside: {error}") from None
