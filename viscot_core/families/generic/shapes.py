"""The shapes of chat models: published ones, and those that a config says. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

from viscot_core.errors import CheckpointError, EngineError
from viscot_core.families.generic.backbones import backbone_of
from viscot_core.families.generic.processor import load_image_processor
from viscot_core.families.shapes import LlmShape, ModelShape, TowerShape
from viscot_core.families.training import ModelChoice

USUAL_SIDE = 560
"""Of a square with as many pixels as a photo of 640 x 480, where images keep their size."""
_USUAL = (480, 640)
"""Height and width of a photo, whose tiles are an image's usual ones."""
_LARGE = ((4000, 4000), (3000, 4000), (4000, 3000), (2000, 4000), (4000, 2000), (1000, 4000), (4000, 1000))
"""Images that are cut into as many tiles as there can be."""
MOST_TOKENS = 1280
"""Of an image at most, where a recipe names no limit."""

# The published configs, so that a plan needs no download: language model, tower, projector.
PUBLISHED: dict[str, ModelShape] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelShape(
        LlmShape(2048, 36, 16, 11008, 151936, 2, tied=True),
        TowerShape(1280, 32, 3420, USUAL_SIDE, 14, -1, 2, gated=True, most_tokens=MOST_TOKENS),
        5120 * 5120 + 5120 * 2048,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": ModelShape(
        LlmShape(3584, 28, 28, 18944, 152064, 4),
        TowerShape(1280, 32, 3420, USUAL_SIDE, 14, -1, 2, gated=True, most_tokens=MOST_TOKENS),
        5120 * 5120 + 5120 * 3584,
    ),
    # Qwen3-VL's deepstack: the tower's merger and three more of the kind.
    "Qwen/Qwen3-VL-4B-Instruct": ModelShape(
        LlmShape(2560, 36, 32, 9728, 151936, 8, tied=True, head_dim=128),
        TowerShape(1024, 24, 4096, USUAL_SIDE, 16, -1, 2, most_tokens=MOST_TOKENS),
        4 * (4096 * 4096 + 4096 * 2560),
    ),
    "Qwen/Qwen3-VL-8B-Instruct": ModelShape(
        LlmShape(4096, 36, 32, 12288, 151936, 8, head_dim=128),
        TowerShape(1152, 27, 4304, USUAL_SIDE, 16, -1, 2, most_tokens=MOST_TOKENS),
        4 * (4608 * 4608 + 4608 * 4096),
    ),
    # A photo of 640 x 480 is cut into 4 x 3 tiles and shown once more as a whole.
    "OpenGVLab/InternVL3_5-8B-HF": ModelShape(
        LlmShape(4096, 36, 32, 12288, 151936, 8, head_dim=128),
        TowerShape(1024, 24, 4096, 448, 14, -1, 2, tiles=13),
        4096 * 4096 + 4096 * 4096,
    ),
    "HuggingFaceTB/SmolVLM-500M-Instruct": ModelShape(
        LlmShape(960, 32, 15, 2560, 49280, 5),
        TowerShape(768, 12, 3072, 512, 16, -1, 4, tiles=13, most_tokens=17 * 64),
        12288 * 960,
    ),
}


def shape_of(choice: ModelChoice) -> ModelShape | None:
    """The shape of the checkpoint that a recipe names; None where it is neither published nor a folder."""
    from transformers import AutoConfig

    name = choice.checkpoint or ""
    if not name or not (Path(name) / "config.json").is_file():
        return PUBLISHED.get(name)
    # Published configs leave out what is a default of their class (Gemma 3: its heads and its vocabulary).
    config = AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    shape, tiles = shape_of_config(config), tiles_of(Path(name))
    if tiles is None:
        return shape
    most = max(tiles(*size) for size in _LARGE) * shape.tower.square_tokens
    tower = replace(shape.tower, tiles=tiles(*_USUAL), most_tokens=most)
    return replace(shape, tower=tower)


def shape_of_config(config: Any) -> ModelShape:
    """The shape of a model, from its config as transformers reads it."""
    fields = config.to_dict()
    llm, tower = _llm(fields["text_config"], fields), _tower(fields["vision_config"], fields)
    return ModelShape(llm, tower, _projector(fields, llm, tower), backbone_of(fields).packs)


def _projector(config: dict[str, Any], llm: LlmShape, tower: TowerShape) -> int:
    """Parameters of what stands between tower and language model, biases and norms left out."""
    inner = tower.width * tower.merge**2
    if config.get("mm_tokens_per_image"):  # patches are averaged (Gemma 3)
        return tower.width * llm.width
    if config.get("scale_factor"):  # one layer (Idefics3, SmolVLM)
        return inner * llm.width
    if _merges_in_tower(config["vision_config"]):  # one layer, and a gated MLP behind it (GLM)
        return llm.width * (llm.width + 3 * config["vision_config"]["intermediate_size"])
    if "spatial_merge_size" in config["vision_config"]:  # Qwen's merger, and one more for each deepstack
        mergers = 1 + len(config["vision_config"].get("deepstack_visual_indexes") or ())
        return mergers * (inner * inner + inner * llm.width)
    return inner * llm.width + llm.width**2


def _llm(text: dict[str, Any], config: dict[str, Any]) -> LlmShape:
    heads = text.get("num_attention_heads", 32)
    return LlmShape(
        text["hidden_size"],
        text.get("num_hidden_layers", 32),
        heads,
        text.get("intermediate_size") or 4 * text["hidden_size"],
        text.get("vocab_size") or config.get("vocab_size", 32000),
        text.get("num_key_value_heads") or heads,
        bool(text.get("tie_word_embeddings") or config.get("tie_word_embeddings")),
        text.get("head_dim") or 0,
    )


def _tower(vision: dict[str, Any], config: dict[str, Any]) -> TowerShape:
    width = _number(vision.get("embed_dim") or vision.get("hidden_size"), 1024)
    merge = vision.get("spatial_merge_size") or config.get("scale_factor") or 1
    if config.get("downsample_ratio"):
        merge = round(1 / config["downsample_ratio"])
    if config.get("mm_tokens_per_image"):
        side = _number(vision.get("image_size"), 448) // _number(vision.get("patch_size"), 14)
        merge = max(1, side // isqrt(config["mm_tokens_per_image"]))
    keeps_shape = "spatial_merge_size" in vision
    mlp, after = vision.get("intermediate_size") or int(width * vision.get("mlp_ratio", 4)), 0
    if _merges_in_tower(vision):
        mlp = vision["out_hidden_size"]
        after = width * merge**2 * mlp
    return TowerShape(
        width,
        vision.get("depth") or vision.get("num_hidden_layers") or 24,
        mlp,
        USUAL_SIDE if keeps_shape else _number(vision.get("image_size"), 448),
        _number(vision.get("patch_size"), 14),
        -1,
        int(merge),
        gated=vision.get("model_type", "").startswith(("qwen2_5", "glm4v")),
        most_tokens=MOST_TOKENS if keeps_shape else 0,
        # LLaVA-OneVision reads several images as one square each.
        alone="image_grid_pinpoints" in config,
        after=after,
    )


def _merges_in_tower(vision: dict[str, Any]) -> bool:
    """GLM's tower, whose ``intermediate_size`` is that of the projector; its own MLPs are as wide as it
    gives out."""
    return str(vision.get("model_type", "")).startswith("glm4v")


def tiles_of(folder: Path) -> Callable[[int, int], int] | None:
    """Into how many squares an image of a height and width is cut, as the checkpoint's processor says; None
    for a processor that cuts none, and where there is none."""
    from transformers.image_processing_utils import select_best_resolution

    try:
        processor = load_image_processor(folder)
    except (CheckpointError, EngineError):  # who needs it says so
        return None
    if pinpoints := getattr(processor, "image_grid_pinpoints", None):
        side = int(processor.size.get("height") or processor.size["shortest_edge"])

        def of_grid(height: int, width: int) -> int:
            rows, columns = select_best_resolution((height, width), pinpoints)
            return 1 + (rows // side) * (columns // side)

        return of_grid
    count = getattr(processor, "get_number_of_image_patches", None)
    if count is None or hasattr(processor, "merge_size"):  # Qwen's patches are no tiles
        return None

    def of_processor(height: int, width: int) -> int:
        # InternVL's own processor asks for tiles whatever the file of its image part says.
        found = count(height, width, {"crop_to_patches": True})
        return int(found[0] if isinstance(found, tuple) else found)

    return of_processor


def _number(value: Any, default: int) -> int:
    """A side that some configs give twice, for height and width."""
    return int(value[0] if isinstance(value, list | tuple) else value or default)
