"""Tiny random models whose positions follow the grids of images: Qwen-VL of all versions, GLM-4V."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_parts import (
    QWEN,
    image_processor,
    mrope,
    save,
    template,
    text_config,
    train_tokenizer,
)

GLM = """\
[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>
{% for part in message['content'] %}{% if part['type'] == 'image' %}<|begin_of_image|><|image|>\
<|end_of_image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


def make_qwen(version: str, folder: Path, seed: int = 0) -> Path:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5: M-RoPE, images of any size in pixels of their own grid."""
    import transformers

    name = {"qwen2-vl": "Qwen2VL", "qwen2.5-vl": "Qwen2_5_VL", "qwen3-vl": "Qwen3VL", "qwen3.5": "Qwen3_5"}[
        version
    ]
    newer = version in ("qwen3-vl", "qwen3.5")
    tokenizer = train_tokenizer(QWEN, eos="<|im_end|>", pad="<|endoftext|>")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in QWEN}
    patch = 16 if newer else 14
    size = {"shortest_edge": (2 * patch) ** 2 * 4, "longest_edge": (2 * patch) ** 2 * 16}
    images = image_processor(
        "qwen2_vl",
        "Qwen2VLImageProcessorPil",
        size=size,
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
    )
    video = transformers.Qwen3VLVideoProcessor if newer else transformers.Qwen2VLVideoProcessor
    jinja = {"qwen3-vl": "qwen3_vl", "qwen3.5": "qwen3_5_nothink"}.get(version, "qwen2_5_vl")
    kind = {"qwen3.5": "Qwen3VL"}.get(version, name)
    processor = getattr(transformers, f"{kind}Processor")(
        images, tokenizer, video(), chat_template=template(jinja)
    )
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2}
    if version == "qwen2-vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    if version == "qwen2.5-vl":
        vision |= {"window_size": 4 * patch, "fullatt_block_indexes": [1]}
    if newer:
        vision |= {
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0] if version == "qwen3-vl" else [],
        }
    text = text_config(tokenizer, rope_parameters=mrope())
    if newer:
        text |= {"head_dim": 8}
    if version == "qwen3.5":
        text |= {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "rope_parameters": mrope(partial_rotary_factor=1.0),
        }
    config = getattr(transformers, f"{name}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return save(folder, getattr(transformers, f"{name}ForConditionalGeneration"), config, processor, seed)


def make_glm(folder: Path, seed: int = 0) -> Path:
    """GLM-4.6V; a turn ends with the next role's token."""
    import transformers

    special = [
        "<|endoftext|>",
        "[gMASK]",
        "<sop>",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|observation|>",
    ]
    special += ["<|begin_of_image|>", "<|end_of_image|>", "<|image|>"]
    special += ["<|begin_of_video|>", "<|end_of_video|>", "<|video|>", "<think>", "</think>"]
    tokenizer = train_tokenizer(special, eos="<|endoftext|>", pad="<|endoftext|>")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    size = {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 16}
    images = image_processor("glm46v", "Glm46VImageProcessorPil", size=size, patch_size=14, merge_size=2)
    processor = transformers.Glm46VProcessor(
        images, tokenizer, transformers.Glm46VVideoProcessor(), chat_template=GLM
    )
    config = transformers.Glm46VConfig(
        text_config={
            "model_type": "glm4v_text",
            **text_config(tokenizer, rope_parameters=mrope(partial_rotary_factor=1.0)),
        },
        vision_config={
            "model_type": "glm4v_vision",
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "image_size": 112,
            "spatial_merge_size": 2,
        },
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
    )
    stop = [ids["<|endoftext|>"], ids["<|user|>"]]
    return save(folder, transformers.Glm46VForConditionalGeneration, config, processor, seed, stop)
