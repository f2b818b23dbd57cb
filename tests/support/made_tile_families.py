"""Tiny random models that read images as tiles, or as one square."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from made_parts import (
    CHATML,
    TOWER,
    image_processor,
    save,
    template,
    text_config,
    train_tokenizer,
)

INTERNVL = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>
{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
ONEVISION = """\
{% for message in messages %}<|im_start|>{{ message['role'] + ' ' }}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<image>
{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
MOLMO = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}\
{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_idefics(folder: Path, seed: int = 0, *, smol: bool = False) -> Path:
    """Idefics3 (needs no torchvision), or SmolVLM: the same shape with a processor of its own."""
    import transformers

    family, name, start = (
        ("smolvlm", "SmolVLM", "<|im_start|>") if smol else ("idefics3", "Idefics3", "<|begin_of_text|>")
    )
    special = ["<pad>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", start]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    # Idefics3's is Llama's, which puts <|begin_of_text|> before every text.
    tokenizer = train_tokenizer(
        special, eos="<end_of_utterance>", pad="<pad>", adds_bos=not smol, bos_token=start
    )
    tile = {"longest_edge": 56}
    images = image_processor(
        family,
        f"{name}ImageProcessorPil",
        size={"longest_edge": 112},
        max_image_size=tile,
        do_image_splitting=True,
    )
    more: dict[str, Any] = {}
    if smol:
        kind = import_module("transformers.models.smolvlm.video_processing_smolvlm").SmolVLMVideoProcessor
        sampling = {"fps": 1, "max_frames": 4, "video_size": tile}
        more["video_processor"] = kind(
            size=tile, max_image_size=tile, fps=1, num_frames=4, video_sampling=sampling
        )
    processor = getattr(transformers, f"{name}Processor")(
        images, tokenizer, image_seq_len=4, chat_template=template(family), **more
    )
    config = getattr(transformers, f"{name}Config")(
        text_config={"model_type": "llama", **text_config(tokenizer)},
        vision_config={**TOWER, "image_size": 56, "patch_size": 14},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return save(folder, getattr(transformers, f"{name}ForConditionalGeneration"), config, processor, seed)


def make_internvl(folder: Path, seed: int = 0) -> Path:
    """InternVL 3: tiles of one size."""
    import transformers

    special = [*CHATML, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    tokenizer = train_tokenizer(
        special,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    images = image_processor(
        "got_ocr2",
        "GotOcr2ImageProcessorPil",
        size={"height": 56, "width": 56},
        crop_to_patches=False,  # as published models store it; their processor asks for tiles all the same
        min_patches=1,
        max_patches=4,
    )
    video = import_module("transformers.models.internvl.video_processing_internvl").InternVLVideoProcessor
    processor = transformers.InternVLProcessor(
        images, tokenizer, video(size={"height": 56, "width": 56}), image_seq_length=4, chat_template=INTERNVL
    )
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        vision_config={
            **TOWER,
            "image_size": [56, 56],
            "patch_size": [14, 14],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return save(folder, transformers.InternVLForConditionalGeneration, config, processor, seed)


def make_onevision(folder: Path, seed: int = 0) -> Path:
    """LLaVA-OneVision: one image in tiles, several as one tile each."""
    import transformers

    special = [*CHATML, "<image>", "<video>"]
    tokenizer = train_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>")
    pinpoints = [[56, 56], [56, 112], [112, 56], [112, 112]]
    images = image_processor(
        "llava_onevision",
        "LlavaOnevisionImageProcessorPil",
        size={"height": 56, "width": 56},
        image_grid_pinpoints=pinpoints,
    )
    video = transformers.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56})
    processor = transformers.LlavaOnevisionProcessor(
        images,
        tokenizer,
        video,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION,
        vision_aspect_ratio="anyres_max_4",
    )
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        vision_config={
            "model_type": "siglip_vision_model",
            **TOWER,
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_4",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    return save(folder, transformers.LlavaOnevisionForConditionalGeneration, config, processor, seed)


def make_gemma3(folder: Path, seed: int = 0, window: int = 512) -> Path:
    """Gemma 3: sliding layers of ``window`` tokens, images that see all of themselves."""
    import transformers

    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    special += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = train_tokenizer(
        special,
        eos="<eos>",
        pad="<pad>",
        adds_bos=True,
        bos_token="<bos>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    tokenizer.add_tokens(["\n" * count for count in (1, 2, 3, 4)])  # as in Gemma's; vLLM looks them up
    images = image_processor("gemma3", "Gemma3ImageProcessorPil", size={"height": 56, "width": 56})
    processor = transformers.Gemma3Processor(
        images, tokenizer, chat_template=template("gemma3"), image_seq_length=4
    )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    config = transformers.Gemma3Config(
        text_config=text_config(
            tokenizer, head_dim=8, sliding_window=window, layer_types=["sliding_attention", "full_attention"]
        ),
        vision_config={
            **TOWER,
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )
    stop = [ids["<eos>"], ids["<end_of_turn>"]]
    return save(folder, transformers.Gemma3ForConditionalGeneration, config, processor, seed, stop)


def make_gemma4(folder: Path, seed: int = 0) -> Path:
    """Gemma 4 with images of as many tokens as their size asks for."""
    import transformers

    special = ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]
    special += ["<|image>", "<image|>", "<|image|>", "<|audio>", "<audio|>", "<|audio|>", "<|video|>"]
    tokenizer = train_tokenizer(
        special,
        eos="<eos>",
        pad="<pad>",
        bos_token="<bos>",
        boi_token="<|image>",
        eoi_token="<image|>",
        image_token="<|image|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
        audio_token="<|audio|>",
    )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    images = image_processor(
        "gemma4", "Gemma4ImageProcessorPil", patch_size=16, pooling_kernel_size=3, max_soft_tokens=70
    )
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        images,
        tokenizer,
        transformers.Gemma4VideoProcessor(),
        chat_template=template("gemma4_v5"),
        image_seq_length=70,
    )
    config = transformers.Gemma4Config(
        text_config=text_config(
            tokenizer,
            head_dim=8,
            global_head_dim=8,
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=len(tokenizer),
            sliding_window=512,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config={
            **TOWER,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "position_embedding_size": 256,
        },
        audio_config=None,
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        audio_token_id=ids["<|audio|>"],
        boa_token_id=ids["<|audio>"],
        eoa_token_index=ids["<audio|>"],
    )
    stop = [ids["<eos>"], ids["<turn|>"]]
    return save(folder, transformers.Gemma4ForConditionalGeneration, config, processor, seed, stop)


def make_molmo2(folder: Path, seed: int = 0) -> Path:
    """Molmo 2, which names points."""
    import transformers

    special = [*CHATML, "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>"]
    special += ["<im_end>", "<frame_end>", "<im_low>", "<|image|>", "<|video|>"]
    tokenizer = train_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    kind = import_module("transformers.models.molmo2.image_processing_molmo2").Molmo2ImageProcessor
    video = import_module("transformers.models.molmo2.video_processing_molmo2").Molmo2VideoProcessor
    images = kind(size={"height": 56, "width": 56}, max_crops=2, overlap_margins=[1, 1], patch_size=14)
    processor = transformers.Molmo2Processor(
        images, video(size={"height": 56, "width": 56}, patch_size=14), tokenizer, chat_template=MOLMO
    )
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.Molmo2Config(
        text_config=text_config(tokenizer, head_dim=8, additional_vocab_size=8),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "image_size": [56, 56],
            "patch_size": 14,
            "num_position_embeddings": 16,
            **heads,
        },
        adapter_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "text_hidden_size": 32,
            "vision_feature_layer": [-1, -2],
            **heads,
        },
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
    )
    return save(folder, transformers.Molmo2ForConditionalGeneration, config, processor, seed)
