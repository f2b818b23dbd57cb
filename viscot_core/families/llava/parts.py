"""The parts of a LLaVA model: their tensors, and a model put together from the parts that a recipe names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError
from viscot_core.families.base import Family, Parts
from viscot_core.families.checkpoint import Checkpoint, Layout, Shape, Source, compare
from viscot_core.families.llava import layouts
from viscot_core.families.llava.gather import PROJECTOR_FILES
from viscot_core.families.llava.tokenizer import token_count
from viscot_core.families.manifest import Manifest
from viscot_core.families.training import ModelChoice
from viscot_core.files import expanded
from viscot_core.tensors import open_file, open_weights, read_json

PARTS = Parts((layouts.TOWER,), (layouts.PROJECTOR,), (layouts.LLM, "lm_head."))
PROJECTOR_FILE = "projector.safetensors"
"""The projector's own file, as viscot writes it beside the original code's."""
_PROJECTOR_LAYERS = {"linear_1": "0", "linear_2": "2"}
"""The projector's layers in transformers' model and in the original one (1 is the GELU)."""


def expected_shapes(config: Any) -> dict[str, Shape]:
    """Shape of every tensor that a model of this config keeps, by module name; allocates nothing."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # A tied head is the embeddings: it is not stored a second time.
    if config.tie_word_embeddings:
        shapes.pop(layouts.HEAD, None)
    return shapes


def add_image_row(tensors: dict[str, Source], rows: int, wanted: int) -> None:
    """Give embeddings and head of ``rows`` rows those up to ``wanted``: the image token has none yet.

    Any other number of rows is left as it is, for `compare` to report.
    """
    for name in (layouts.EMBEDDINGS, layouts.HEAD):
        if name in tensors and tensors[name].shape[0] == rows < wanted:
            tensors[name] = Source(tensors[name].stored, rows=wanted)


# -- a model put together from its parts ------------------------------------------------------------------


def from_parts(family: Family, choice: ModelChoice, find: Callable[[str], Path]) -> Checkpoint:
    """The checkpoint of a language model under a tower; a projector that is not given is not missed.

    ``find`` gives the folder of a hub name or path.

    Raises:
        CheckpointError: one of them is of another kind or width, or the tower has no such layer.
    """
    llm, tower = find(str(choice.base_llm)), find(str(choice.vision_tower))
    raw, config = _config(choice, llm, tower)
    tensors = _named(llm, lambda name: layouts.module_name(name, Layout.LLAVA))
    tensors |= _named(tower, layouts.clip_module_name)
    if choice.projector:
        tensors |= _projector(choice.projector, config, find)
    rows = int(raw["vocab_size"])
    add_image_row(tensors, rows, config.text_config.vocab_size)
    manifest = Manifest(
        name=llm.name,
        template=choice.template,
        turn_tokens=choice.turn_tokens,
        image_side=int(config.vision_config.image_size),
    )
    found = Checkpoint(family, llm, Layout.LLAVA, raw, config, manifest, tensors, rows, llm)
    compare(found, expected_shapes(config))
    if not choice.projector:  # it starts at random
        found.missing = [name for name in found.missing if PARTS.part_of(name) != "projector"]
    return found


def _config(choice: ModelChoice, llm: Path, tower: Path) -> tuple[dict[str, Any], Any]:
    """The original layout's config of a language model under a tower, and transformers' config of it."""
    raw, stated = read_json(llm / "config.json"), read_json(tower / "config.json")
    vision = stated.get("vision_config", stated)
    if "vocab_size" not in raw:
        raise CheckpointError(f"model.base_llm: {llm} is no language model (no vocab_size); name another.")
    if (kind := str(raw.get("model_type", "llama"))) != "llama":
        raise CheckpointError(f"model.base_llm: {llm} is a {kind}, and viscot trains Llamas; name another.")
    if "patch_size" not in vision:
        raise CheckpointError(f"model.vision_tower: {tower} is no CLIP tower (no patch_size); name another.")
    layers, chosen = int(vision.get("num_hidden_layers", 24)), choice.feature_layer
    if not -layers - 1 <= chosen <= layers:
        raise CheckpointError(
            f"model.feature_layer: {chosen} - {tower} has {layers} layers; give one of them."
        )
    raw |= {
        "mm_projector_type": choice.projector_type,
        "mm_vision_select_layer": chosen,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": choice.vision_tower,
        "_name_or_path": choice.base_llm,
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
    }
    return raw, layouts.config_from_llava(raw, vision, token_count(llm))


def _named(folder: Path, module_name: Callable[[str], str | None]) -> dict[str, Source]:
    """Tensors by their names in the model in memory; buffers and CLIP's text half have none there."""
    named = ((module_name(name), tensor) for name, tensor in open_weights(folder).items())
    return {module: Source(tensor) for module, tensor in named if module is not None}


# -- the projector alone ------------------------------------------------------------------------------------


def _projector(name: str, config: Any, find: Callable[[str], Path]) -> dict[str, Source]:
    """A projector by file, folder or hub name."""
    stored = open_file(_projector_file(name, find)).items()
    found = {projector_module_name(key): Source(tensor) for key, tensor in stored}
    _require_projector_fits(name, {key: source.shape for key, source in found.items()}, config)
    return found


def _projector_file(name: str, find: Callable[[str], Path]) -> Path:
    path = expanded(name)
    if path.is_file():
        return path
    folder = find(name)
    files = (PROJECTOR_FILE, *PROJECTOR_FILES)
    present = [folder / file for file in files if (folder / file).exists()]
    if not present:
        raise CheckpointError(f"{folder} holds no projector ({', '.join(files)}); name the file itself.")
    return present[0]


def projector_module_name(stored: str) -> str:
    """A projector's tensor in the model in memory; the original names and ours are read."""
    short = stored.split("mm_projector.")[-1].split("multi_modal_projector.")[-1]
    layer, _, kind = short.partition(".")
    ours = {number: name for name, number in _PROJECTOR_LAYERS.items()}
    return f"{layouts.PROJECTOR}{ours.get(layer, layer)}.{kind}"


def original_projector_name(short: str) -> str:
    """``linear_1.weight`` as the original code names it."""
    layer, _, kind = short.partition(".")
    return f"model.mm_projector.{_PROJECTOR_LAYERS[layer]}.{kind}"


def _require_projector_fits(name: str, shapes: Mapping[str, Sequence[int]], config: Any) -> None:
    """`CheckpointError` where a projector (shapes by module name) is of another tower or language model."""
    first = shapes.get(f"{layouts.PROJECTOR}linear_1.weight")
    wanted = int(config.vision_config.hidden_size), int(config.text_config.hidden_size)
    # A Linear's weight is [out, in].
    if first is not None and (first[1], first[0]) != wanted:
        raise CheckpointError(
            f"model.projector: {name} turns features of width {first[1]} into {first[0]}, and "
            f"this model needs {wanted[0]} into {wanted[1]}; give the projector of this tower and language "
            "model, or train one with --set model.projector=null."
        )
