"""What training must know of a LLaVA model: its parts' names, what learns, adapters, assembly from parts.

``train/`` asks here instead of naming a tensor or a class of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError
from viscot_core.families.checkpoint import Layout
from viscot_core.families.llava import layouts, original_config
from viscot_core.families.llava.tokenizer import token_count
from viscot_core.tensors import read_json

if TYPE_CHECKING:
    import torch

PARTS = {
    "vision_tower": (layouts.TOWER,),
    "projector": (layouts.PROJECTOR,),
    "llm": (layouts.LLM, "lm_head."),
}
"""The parts a recipe trains or freezes, and where in a parameter's name each is told by."""
EMBEDDINGS = (layouts.EMBEDDINGS, layouts.HEAD)
"""Matrices with one row a token: they gain rows for the image token."""
LORA_TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
"""The linear layers that LLaVA-1.5's LoRA recipe adapts: all of the language model's, none of the tower's."""
LORA_TRAINED_WHOLE = {"projector": "multi_modal_projector"}
"""Modules that learn whole beside adapters, by part."""
PROJECTOR_BIN = "mm_projector.bin"
"""The projector's own file, as the original code reads and writes it."""
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "pixel_values")
"""What of a batch the model takes; the rest is for the loss and the log."""
_LAYER = "encoder.layers."
_PROJECTOR_LAYERS = {"linear_1": "0", "linear_2": "2"}
"""The projector's layers in transformers' model and in the original one (1 is the GELU)."""


# -- the model in memory ----------------------------------------------------------------------------------


def part_of(name: str) -> str | None:
    """The part a parameter belongs to, whatever wraps the model (heads, adapters); None outside of all."""
    return next((part for part, marks in PARTS.items() if any(mark in name for mark in marks)), None)


def tower_layer(name: str) -> int:
    """Layer of a tower's parameter, from 0; -1 for the embeddings and the norm before the first."""
    return int(name.split(_LAYER)[1].split(".")[0]) if _LAYER in name else -1


def gets_gradient(name: str, config: Any) -> bool:
    """Whether the loss reaches a parameter at all.

    Of the tower, the layers above ``vision_feature_layer`` and the norm behind the last are not read: DDP and
    ZeRO would wait for their gradients in vain.
    """
    if "vision_tower.post_layernorm" in name:
        return False
    return not ("vision_tower." in name and _LAYER in name and tower_layer(name) > _last_read_layer(config))


def _last_read_layer(config: Any) -> int:
    chosen = int(config.vision_feature_layer)  # an index of hidden states: 0 is what goes into layer 0
    return chosen - 1 if chosen >= 0 else int(config.vision_config.num_hidden_layers) + chosen


def image_side(config: Any) -> int:
    """Side of the square that the tower reads, pixels."""
    return int(config.vision_config.image_size)


def patches_along(config: Any) -> int:
    """Patches along a side of that square."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def text_width(config: Any) -> int:
    """Hidden width of the language model."""
    return int(config.text_config.hidden_size)


def compile_parts(model: Any, *, language_model: bool) -> None:
    """``torch.compile`` of the tower and, where it runs, of the language model."""
    import torch

    # Every padded length and number of images is a shape of its own: more than the default eight.
    torch._dynamo.config.recompile_limit = 64
    model.model.vision_tower.compile(dynamic=False)
    if language_model:
        model.model.language_model.compile(dynamic=False)


def allow_text_only_batches(model: Any) -> None:
    """Let training batches lack images on some processes (`text_only_batches` says how); weights stay."""
    from viscot_core.families.llava.text_only_batches import TextOnlyLlavaModel

    model.model.__class__ = TextOnlyLlavaModel


def model_without_weights(config: Any, dtype: torch.dtype, attention: str) -> Any:
    """A model of this config, its parameters not read from any file (ZeRO-3 fills them, share by share)."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attention)


# -- features, where a stage trains on them without the language model --------------------------------------


def projected_patches(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """``[B, 3, side, side]`` -> what the language model would read, ``[B, patches, text width]``."""
    import torch

    return torch.stack(tuple(model.model.get_image_features(pixels).pooler_output))


def tower_patches(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """``[B, 3, side, side]`` -> what the projector reads, ``[B, patches, tower width]``."""
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    patches: torch.Tensor = hidden[model.config.vision_feature_layer][:, 1:]  # without the class token
    return patches


def first_projector_layer(model: Any) -> torch.nn.Linear:
    """The projector's layer that reads the tower."""
    layer: torch.nn.Linear = model.model.multi_modal_projector.linear_1
    return layer


# -- what is saved ----------------------------------------------------------------------------------------


def tied_tensors(config: Any) -> frozenset[str]:
    """Tensors that are the same as another one in memory, and are not saved twice."""
    return frozenset({layouts.HEAD} if config.tie_word_embeddings else ())


def projector_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The projector's tensors of a state dict, by name inside the projector (``linear_1.weight``)."""
    found = {}
    for name, tensor in state.items():
        if ".original_module." in name:  # peft keeps the untrained one beside the trained
            continue
        clean = name.replace(".modules_to_save.default", "").removeprefix("base_model.model.")
        if clean.startswith(layouts.PROJECTOR):
            found[clean.removeprefix(layouts.PROJECTOR)] = tensor.detach().cpu().contiguous()
    return found


def original_projector(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The projector under the names that the original code reads (`PROJECTOR_BIN`)."""
    found = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.partition(".")
        found[f"model.mm_projector.{_PROJECTOR_LAYERS[layer]}.{kind}"] = tensor
    return found


def projector_config(config: Any, text_rows: int, base: str) -> dict[str, Any]:
    """``config.json`` of a folder with only a projector: it names the base, as LLaVA's stage 1 does."""
    return original_config.config_to_llava(config, text_rows, "float32") | {"_name_or_path": base}


# -- a model assembled from its parts ---------------------------------------------------------------------


def config_from_parts(
    llm: Path, tower: Path, *, names: Sequence[str], feature_layer: int, projector_type: str
) -> tuple[dict[str, Any], Any]:
    """The original layout's config of a language model under a tower, and transformers' config of it.

    Args:
        names: what the recipe calls the language model and the tower.

    Raises:
        CheckpointError: one of them is of another kind, or the tower has no such layer.
    """
    raw, stated = read_json(llm / "config.json"), read_json(tower / "config.json")
    vision = stated.get("vision_config", stated)
    if "vocab_size" not in raw:
        raise CheckpointError(f"model.base_llm: {llm} is no language model (no vocab_size); name another.")
    if "patch_size" not in vision:
        raise CheckpointError(f"model.vision_tower: {tower} is no CLIP tower (no patch_size); name another.")
    layers = int(vision.get("num_hidden_layers", 24))
    if not -layers - 1 <= feature_layer <= layers:
        raise CheckpointError(
            f"model.feature_layer: {feature_layer} - {tower} has {layers} layers; give one of them."
        )
    raw |= {
        "mm_projector_type": projector_type,
        "mm_vision_select_layer": feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": names[1],
        "_name_or_path": names[0],
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
    }
    return raw, layouts.config_from_llava(raw, vision, token_count(llm))


def llm_module_name(stored: str) -> str | None:
    """A language model's tensor in the model in memory; None for a buffer the model computes itself."""
    return layouts.module_name(stored, Layout.LLAVA)


def tower_module_name(stored: str) -> str | None:
    """A CLIP tower's tensor in the model in memory; None for its text half and its buffers."""
    return layouts.clip_module_name(stored)


def projector_module_name(stored: str) -> str:
    """A projector's tensor in the model in memory; the original names and ours are read."""
    short = stored.split("mm_projector.")[-1].split("multi_modal_projector.")[-1]
    layer, _, kind = short.partition(".")
    ours = {number: name for name, number in _PROJECTOR_LAYERS.items()}
    return f"{layouts.PROJECTOR}{ours.get(layer, layer)}.{kind}"


def require_projector_fits(name: str, shapes: Mapping[str, Sequence[int]], config: Any) -> None:
    """`CheckpointError` where a projector (shapes by module name) is of another tower or language model."""
    first = shapes.get(f"{layouts.PROJECTOR}linear_1.weight")
    wanted = int(config.vision_config.hidden_size), text_width(config)
    # A Linear's weight is [out, in].
    if first is not None and (first[1], first[0]) != wanted:
        raise CheckpointError(
            f"model.projector: {name} turns features of width {first[1]} into {first[0]}, and "
            f"this model needs {wanted[0]} into {wanted[1]}; give the projector of this tower and language "
            "model, or train one with --set model.projector=null."
        )
