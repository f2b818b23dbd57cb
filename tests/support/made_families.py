"""Tiny random models of other families, made from a config, as a hub's folder holds them.

``make(name, folder)`` for every name of ``FAMILIES``: 0.1-0.3 M parameters, a tokenizer trained here, the
family's own image processor and, where trl ships it, its real chat template (``chat_templates/``).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

WORDS = "a an and the of is what where which how many says red green blue yellow card number region box"
TEMPLATES = Path(__file__).parent / "chat_templates"

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
GLM = """\
[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>
{% for part in message['content'] %}{% if part['type'] == 'image' %}<|begin_of_image|><|image|>\
<|end_of_image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>
{% endif %}"""
MOLMO = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}\
{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN = [
    *CHATML,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
]


def declare_torchvision() -> Any:
    """torchvision's two operators, which its build for CUDA does not declare beside a torch for the CPU."""
    import torch

    lib = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        lib.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return lib


def train_tokenizer(special: list[str], *, eos: str, pad: str, **named: str) -> Any:
    """Byte-level BPE over a handful of words; ``named`` are tokens with a name of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    known = {eos, pad, *named.values()}
    extra: Any = [token for token in special if token not in known]
    own = {name: named.pop(name) for name in ("bos_token",) if name in named}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=named if named else extra,
        model_max_length=2048,
        **own,
    )


def text_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """A language model of two layers with grouped queries."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def mrope(rope_type: str = "default", **more: Any) -> dict[str, Any]:
    """Rotary positions on three axes, for heads of 8 numbers."""
    return {"rope_type": rope_type, "rope_theta": 10000.0, "mrope_section": [1, 1, 2], **more}


def image_processor(family: str, name: str, **options: Any) -> Any:
    """A family's Pillow image processor."""
    module = import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, name)(**options)


def make_idefics3(folder: Path, seed: int = 0) -> Path:
    """Idefics3 (needs no torchvision)."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor

    special = ["<pad>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    special += ["<|begin_of_text|>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = train_tokenizer(special, eos="<end_of_utterance>", pad="<pad>")
    images = image_processor(
        "idefics3",
        "Idefics3ImageProcessorPil",
        size={"longest_edge": 112},
        max_image_size={"longest_edge": 56},
        do_image_splitting=True,
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template("idefics3"))
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    config = Idefics3Config(
        text_config={"model_type": "llama", **text_config(tokenizer)},
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return save(folder, Idefics3ForConditionalGeneration, config, processor, seed)


def make_smolvlm(folder: Path, seed: int = 0) -> Path:
    """SmolVLM: Idefics3's shape with its own processor."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor

    video = import_module("transformers.models.smolvlm.video_processing_smolvlm").SmolVLMVideoProcessor
    special = ["<pad>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    special += ["<|im_start|>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = train_tokenizer(special, eos="<end_of_utterance>", pad="<pad>")
    images = image_processor(
        "smolvlm",
        "SmolVLMImageProcessorPil",
        size={"longest_edge": 112},
        max_image_size={"longest_edge": 56},
        do_image_splitting=True,
    )
    videos = video(
        size={"longest_edge": 56},
        max_image_size={"longest_edge": 56},
        fps=1,
        num_frames=4,
        video_sampling={"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 56}},
    )
    processor = SmolVLMProcessor(
        images, tokenizer, videos, image_seq_len=4, chat_template=template("smolvlm")
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **text_config(tokenizer)},
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return save(folder, SmolVLMForConditionalGeneration, config, processor, seed)


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
        crop_to_patches=True,
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
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
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
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
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
        bos_token="<bos>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
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
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
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
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
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


def template(name: str) -> str:
    """A family's real chat template."""
    return (TEMPLATES / f"{name}.jinja").read_text()


def save(
    folder: Path, kind: Any, config: Any, processor: Any, seed: int, stop: list[int] | None = None
) -> Path:
    """Random weights and all files into ``folder``."""
    import torch

    torch.manual_seed(seed)
    model = kind(config).eval()
    model.generation_config.eos_token_id = stop or [processor.tokenizer.eos_token_id]
    # What a hub's folder may bring along, and must not reach a greedy answer.
    model.generation_config.repetition_penalty = 3.0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


FAMILIES: dict[str, Callable[..., Path]] = {
    "qwen2-vl": lambda folder, seed=0: make_qwen("qwen2-vl", folder, seed),
    "qwen2.5-vl": lambda folder, seed=0: make_qwen("qwen2.5-vl", folder, seed),
    "qwen3-vl": lambda folder, seed=0: make_qwen("qwen3-vl", folder, seed),
    "qwen3.5": lambda folder, seed=0: make_qwen("qwen3.5", folder, seed),
    "glm-4v": make_glm,
    "internvl": make_internvl,
    "llava-onevision": make_onevision,
    "idefics3": make_idefics3,
    "smolvlm": make_smolvlm,
    "gemma3": make_gemma3,
    "gemma4": make_gemma4,
    "molmo2": make_molmo2,
}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """A tiny random model of the family ``name``."""
    return FAMILIES[name](folder, seed=seed)
