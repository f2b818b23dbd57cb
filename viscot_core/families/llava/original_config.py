"""The original LLaVA code's ``config.json`` of a model, with every field that this code reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError
from viscot_core.families.llava import layouts

if TYPE_CHECKING:
    from transformers import LlavaConfig

_ROPES = ("linear", "dynamic")
"""Kinds of rotary scaling that the original code's transformers (4.31 to 4.37) knows."""
TOWER_FOLDER = "clip_tower"
"""The tower's folder inside an export; the original code takes only a name with "clip" in it."""
_OPENAI = {224: "openai/clip-vit-large-patch14", 336: "openai/clip-vit-large-patch14-336"}


def config_to_llava(config: LlavaConfig, rows: int, dtype: str, tower: str | None = None) -> dict[str, Any]:
    """The original ``config.json`` for a model of ``rows`` embedding rows (the image token's left out).

    ``tower`` replaces ``mm_vision_tower``; without it the remembered one, OpenAI's CLIP-L of that resolution
    where the tower has its shape, or the folder `TOWER_FOLDER` that the export writes.
    """
    text, vision = config.text_config, config.vision_config
    known = (
        _OPENAI.get(vision.image_size)
        if vision.hidden_size == 1024 and vision.num_hidden_layers == 24
        else None
    )
    unwritten = ("head_dim", "mlp_bias", "rope_parameters")
    fields = {key: getattr(text, key, None) for key in layouts.TEXT_FIELDS if key not in unwritten}
    derived = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **fields,
        **_rope(text),
        "pretraining_tp": 1,
        "freeze_mm_mlp_adapter": False,
        "tune_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch"
        if config.vision_feature_select_strategy == "full"
        else "patch",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_tower": known or TOWER_FOLDER,
        "use_mm_proj": True,
    }
    # Of a model put together from parts this is the language model's config, without LLaVA's fields.
    stated: dict[str, Any] = getattr(config, layouts.ORIGINAL_CONFIG, None) or {}
    own = {"torch_dtype": dtype, "vocab_size": rows} | ({"mm_vision_tower": tower} if tower else {})
    return {**derived, **stated, **own}


def _rope(text: Any) -> dict[str, Any]:
    """Rotary embeddings in the fields of the original code's transformers."""
    rope: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type", "type")}
    return {
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": None if kind == "default" else {"type": kind, **scaling},
    }


def require_original(config: LlavaConfig) -> None:
    """Refuse a model that the original code would read as another one.

    Raises:
        CheckpointError: names the field and its value.
    """
    text, layer = config.text_config, config.vision_feature_layer
    width = text.hidden_size // text.num_attention_heads
    scaling = _rope(text)["rope_scaling"]
    known = scaling is None or (scaling.keys() == {"type", "factor"} and scaling["type"] in _ROPES)
    head_dim, mlp_bias = getattr(text, "head_dim", None) or width, getattr(text, "mlp_bias", False)
    for name, value, is_known in (
        ("rope_scaling", scaling, known),
        ("head_dim", head_dim, head_dim == width),
        ("mlp_bias", mlp_bias, not mlp_bias),
        ("projector_hidden_act", config.projector_hidden_act, config.projector_hidden_act == "gelu"),
        ("multimodal_projector_bias", False, config.multimodal_projector_bias),
        ("vision_feature_layer", layer, isinstance(layer, int)),
    ):
        if not is_known:
            raise CheckpointError(
                f"the original LLaVA code cannot express this model ({name} is {value}); use --layout hf."
            )
