"""Two layouts of one model: the original LLaVA one and transformers' ``LlavaForConditionalGeneration``.

Everything is decided by the config and the tensors' names and shapes, never by a folder's name. Names are
translated through the *module names* of transformers' model in memory, which both layouts map to one to one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError
from viscot_core.families.checkpoint import Layout, Shape

if TYPE_CHECKING:
    from transformers import LlavaConfig

TOWER, PROJECTOR, LLM = "model.vision_tower.", "model.multi_modal_projector.", "model.language_model."
"""How the names of a part's tensors begin in the model in memory; the head's stands alone."""

EMBEDDINGS, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"

ROW_MULTIPLE = 64
"""Embedding rows are padded to a multiple of this when the image token is added (32000 -> 32064)."""

ORIGINAL_CONFIG = "original_llava_config"
"""Field of a converted ``config.json`` that keeps the original one, so that an export back is exact."""


_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_TO_MODULE: dict[Layout, _Rules] = {
    Layout.LLAVA: _rules(
        # Older transformers' CLIP has a level `vision_model`, the present one has not.
        (r"^model\.vision_tower\.vision_tower\.(?:vision_model\.)?", "model.vision_tower."),
        # A Sequential: 1 is the GELU between the two, which has no weights.
        (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
        (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
        (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
    ),
    # transformers has written three forms; its own loader reads all of them, and so does this table.
    Layout.HF: _rules(
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?", "model.vision_tower."),
        (r"^(?:model\.)?multi_modal_projector\.", "model.multi_modal_projector."),
    ),
}
_TO_LLAVA = _rules(
    (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^model\.language_model\.", "model."),
)
_TO_HF = _rules(
    (r"^model\.vision_tower\.", "vision_tower.vision_model."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
# Buffers that old checkpoints carry and the model computes itself.
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|position_ids)$")
_CLIP = re.compile(r"^vision_model\.")


def module_name(stored: str, layout: Layout) -> str | None:
    """The name in the model in memory, or None for a buffer that the model computes itself."""
    if _COMPUTED.search(stored):
        return None
    return _apply(stored, _TO_MODULE[layout])


def stored_name(module: str, layout: Layout) -> str:
    """The name on disk in ``layout`` (HF: the names that vLLM, SGLang and llama.cpp read)."""
    return _apply(module, _TO_LLAVA if layout is Layout.LLAVA else _TO_HF)


def clip_module_name(stored: str) -> str | None:
    """A tensor of a CLIP repository in the model in memory; None for its text half and its buffers."""
    if not _CLIP.search(stored) or _COMPUTED.search(stored):
        return None
    return _CLIP.sub("model.vision_tower.", stored)


def _apply(name: str, rules: _Rules) -> str:
    # A name that no rule fits is a module name already (lm_head, what transformers 5 saves by module).
    for pattern, replacement in rules:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


def detect(config: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Which layout a checkpoint has.

    Raises:
        CheckpointError: a model of another kind, a text-only Llama among them.
    """
    kinds = [str(kind) for kind in config.get("architectures") or []]
    # The original layout says model_type llava too; a text_config is transformers' alone.
    if "text_config" in config and str(config.get("model_type")) == "llava":
        return Layout.HF
    if any(name.startswith("model.mm_projector.") for name in names):
        return Layout.LLAVA
    if any("mm_" in key for key in config) or any(kind.startswith("Llava") for kind in kinds):
        return Layout.LLAVA
    kind = kinds[0] if kinds else str(config.get("model_type", "of an unknown kind"))
    if is_text_only(config):
        raise CheckpointError(
            f"this is a text-only model ({kind}) without a projector or a vision tower; "
            "put its mm_projector.bin beside it or give a LLaVA or VisCoT checkpoint."
        )
    raise CheckpointError(f"viscot reads LLaVA checkpoints, and this is {kind}; give another model.")


def adapted_module(name: str) -> str:
    """The module that an adapter's tensor changes; adapters of either layout's model are met."""
    for layout in (Layout.LLAVA, Layout.HF):
        renamed = module_name(name, layout)
        if renamed is not None and renamed != name:
            return renamed
    return name


def require_not_quantised(config: Mapping[str, Any]) -> None:
    """`CheckpointError` for weights in 4 or 8 bit of any kind."""
    stated = config.get("quantization_config")
    if stated:
        method = stated.get("quant_method", "unknown") if isinstance(stated, dict) else stated
        raise CheckpointError(
            f"its weights are quantised ({method}); give the model in bf16, fp16 or fp32, which "
            "--load-in 4bit quantises while it is loaded."
        )


def is_text_only(config: Mapping[str, Any]) -> bool:
    """Whether a config is a plain Llama's (Vicuna's), without an image part of either layout."""
    kinds = [str(kind) for kind in config.get("architectures") or [config.get("model_type", "")]]
    multimodal = "text_config" in config or any(key.startswith("mm_") for key in config)
    return not multimodal and any(re.match("llama", kind, re.IGNORECASE) for kind in kinds)


# -- configs -----------------------------------------------------------------------------------------

TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "use_cache",
)
_PATCH = "model.vision_tower.embeddings.patch_embedding.weight"
_POSITION = "model.vision_tower.embeddings.position_embedding.weight"
_HEAD_DIM = 64
"""Width of one attention head in every CLIP tower that OpenAI published."""


def tower_name(config: Mapping[str, Any]) -> str | None:
    """``mm_vision_tower`` of an original config: a string, a list of one, or absent."""
    value = config.get("mm_vision_tower", config.get("vision_tower"))
    if isinstance(value, list):
        value = value[0] if value else None
    return str(value) if value else None


def tower_config_from_shapes(shapes: Mapping[str, Shape], heads: int | None = None) -> dict[str, Any]:
    """A CLIP tower's config read off its tensors (module names); without ``heads``, heads are 64 wide.

    Raises:
        CheckpointError: no tower inside, or a width that 64-wide heads do not divide.
    """
    if _PATCH not in shapes or _POSITION not in shapes:
        raise CheckpointError(f"the vision tower is not in the checkpoint ('{_PATCH}' is missing).")
    width, channels, patch, _ = shapes[_PATCH]
    # One position is the class token's; the others are a square of patches.
    grid = math.isqrt(shapes[_POSITION][0] - 1)
    layers = {
        int(m.group(1))
        for name in shapes
        if (m := re.search(r"vision_tower\.encoder\.layers\.(\d+)\.", name))
    }
    if heads is None and width % _HEAD_DIM:
        raise CheckpointError(
            f"the vision tower is {width} wide, which does not tell its number of attention heads; "
            "put its CLIP folder (config.json) where mm_vision_tower points."
        )
    return {
        "hidden_size": width,
        "intermediate_size": shapes["model.vision_tower.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads or width // _HEAD_DIM,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": grid * patch,
        # OpenAI's CLIP; no tensor tells these two, a config at hand does (gather.tower).
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def rows_with_image_token(rows: int, image_id: int) -> int:
    """Embedding rows that hold ``image_id``: unchanged where it fits, else padded to a multiple of 64."""
    return rows if image_id < rows else math.ceil((image_id + 1) / ROW_MULTIPLE) * ROW_MULTIPLE


_ONLY: dict[str, tuple[Any, ...]] = {
    "mm_use_im_start_end": (False, None),
    "image_aspect_ratio": ("pad", None),
    "mm_patch_merge_type": ("flat", None),
    "s2": (False, None),
    "mm_vision_select_feature": ("patch", "cls_patch", None),
}
"""Fields of an original config that change what the model reads, and the values that viscot honours."""


def require_known(original: Mapping[str, Any]) -> None:
    """Refuse what would be read as something it is not: other language models, other image layouts.

    Raises:
        CheckpointError: names the kind, or the field and its value.
    """
    tiles = [name for name in ("image_aspect_ratio", "mm_patch_merge_type") if original.get(name) in _TILES]
    if tiles:
        raise CheckpointError(
            f"this is LLaVA-1.6 or later in its original layout ({tiles[0]} = {original[tiles[0]]!r}); give "
            "its conversion to transformers' layout, with --box-format."
        )
    for name, allowed in _ONLY.items():
        if original.get(name) not in allowed:
            raise CheckpointError(
                f"its config.json says {name} = {original[name]!r}, which viscot does not read "
                f"(only {allowed[0]!r}); give another checkpoint."
            )
    if isinstance(towers := original.get("mm_vision_tower"), list) and len(towers) > 1:
        raise CheckpointError(f"it has {len(towers)} vision towers; viscot reads models with one.")
    listed = original.get("architectures") or []
    if not isinstance(listed, list):
        raise CheckpointError(f"its config.json is damaged (architectures is {listed!r}); copy it again.")
    others = [kind for kind in listed if kind not in _ARCHITECTURES]
    if others:
        raise CheckpointError(
            f"its language model is not a Llama ({others[0]}); give a LLaVA-1.5 checkpoint."
        )


_TILES = ("anyres", "anyres_max_9", "spatial", "spatial_unpad", "unires")
_ARCHITECTURES = ("LlavaLlamaForCausalLM", "LlamaForCausalLM")


def config_from_llava(original: Mapping[str, Any], vision: Mapping[str, Any], image_id: int) -> LlavaConfig:
    """transformers' config for an original ``config.json`` and its CLIP tower's config.

    Raises:
        CheckpointError: a projector or a feature choice that transformers' LLaVA cannot express.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    projector = original.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise CheckpointError(
            f"its projector is '{projector}'; viscot reads the two-layer 'mlp2x_gelu' of LLaVA-1.5."
        )
    select = original.get("mm_vision_select_feature", "patch")
    text = {key: original[key] for key in TEXT_FIELDS if original.get(key) is not None}
    vision_config = CLIPVisionConfig(
        **{k: v for k, v in vision.items() if k not in ("architectures", "dtype")}
    )
    return LlavaConfig(
        vision_config=vision_config,
        text_config=LlamaConfig(
            vocab_size=rows_with_image_token(int(original["vocab_size"]), image_id), **text
        ),
        image_token_index=image_id,
        image_seq_length=_patches(vision_config) + (select == "cls_patch"),
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full" if select == "cls_patch" else "default",
        vision_feature_layer=int(original.get("mm_vision_select_layer", -2)),
        **{ORIGINAL_CONFIG: dict(original)},
    )


def image_tokens(config: LlavaConfig) -> int:
    """Ids that one image takes in a prompt: 576 for CLIP-L/14 at 336 px.

    Counted from the tower: ``image_seq_length`` of many a config is only its default.
    """
    return _patches(config.vision_config) + (config.vision_feature_select_strategy == "full")


def _patches(vision: Any) -> int:
    return int(vision.image_size // vision.patch_size) ** 2
