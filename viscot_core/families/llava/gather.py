"""The parts a checkpoint may leave out, found elsewhere: the base under a projector, the vision tower."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.llava import layouts
from viscot_core.families.llava.layouts import Shape
from viscot_core.families.llava.tokenizer import SENTENCEPIECE
from viscot_core.models import zoo
from viscot_core.tensors import SINGLE, Stored, open_file, open_weights

PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")
PROJECTOR_NAMES = ("mm_projector.", "multi_modal_projector.")
"""What the projector's tensors are called in the original layout and in transformers'."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; errors name the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} is no checkpoint: it has no {path.name}; check --model."
        ) from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); pull or copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; pull or copy it again.")
    return content


def gather(path: Path, raw: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Stored], Path]:
    """Config, tensors and the tokenizer's folder of a checkpoint.

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
            return raw, stored, path
        return _llava_fields(raw), stored | _projector_tensors(projector), path
    base = raw.get("_name_or_path")
    if not base:
        raise CheckpointError(f"{path} holds only a projector, and its config.json names no base model.")
    folder = neighbour(str(base), path)
    stored = open_weights(folder) | _projector_tensors(projector)
    return raw, stored, path if (path / SENTENCEPIECE).exists() else folder


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


def neighbour(name: str, path: Path) -> Path:
    """The folder that a checkpoint's config names: as it is, beside the checkpoint, or pulled.

    Raises:
        CheckpointError: it is not on this machine.
    """
    for folder in (Path(name), path / name, path.parent / name, path.parent / Path(name).name):
        if (folder / "config.json").exists():
            return folder
    last = Path(name).name
    try:
        return zoo.resolve(name)
    except CheckpointError:
        if zoo.find(last) is None and not Path(last).is_dir():
            raise
        return zoo.resolve(last)  # another machine's absolute path often ends in a public name


def tower(
    path: Path, raw: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> tuple[dict[str, Any], dict[str, Stored], str]:
    """The vision tower of an original checkpoint: its config, the tensors to add, a note for ``inspect``.

    A tower inside the checkpoint (``shapes`` by module name) needs no CLIP repository: its shape is read off
    its tensors, and only the number of heads comes from a config that happens to be at hand.

    Raises:
        CheckpointError: it is neither inside nor on this machine.
    """
    name = layouts.tower_name(raw)
    inside = any(key.startswith(layouts.TOWER) for key in shapes)
    folder = _tower_folder(name, path, inside)
    stated = read_json(folder / "config.json") if folder else {}
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


def absent_tower(path: Path) -> str | None:
    """The hub id of the vision tower that a checkpoint leaves out and this machine has not, or None."""
    raw = read_json(path / "config.json")
    name = layouts.tower_name(raw)
    if name is None or any(".vision_tower." in f".{key}" for key in open_weights(path)):
        return None
    try:
        neighbour(name, path)
    except CheckpointError:
        known = zoo.find(name) or zoo.find(Path(name).name)
        return known.hub if known else name
    return None


def _tower_folder(name: str | None, path: Path, inside: bool) -> Path | None:
    if name is None:
        return None
    try:
        return neighbour(name, path)
    except CheckpointError:
        if inside:
            return None
        raise CheckpointError(
            f"its vision tower is not inside and '{name}' is not on this machine; "
            f"get it with: viscot models pull {name}"
        ) from None
