"""The untrained Qwen2.5-VL of ``foreign_eye.py``: its tokenizer, its sizes, its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from viscot_core.boxes.registry import codec
from viscot_core.conversation import BOX_REQUEST
from viscot_core.data.scenes import COLORS, NOUNS
from viscot_core.data.synth import QUESTIONS
from viscot_core.policies.wording import Wording

FACTOR, MIN_PIXELS, MAX_PIXELS = 28, 28 * 28 * 16, 28 * 28 * 56
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
NUMBERS = 320
"""Whole numbers that are one token each: coordinates of an image of at most this many pixels a side."""
FORMAT = "qwen2.5-vl"
REPLY = '[{{"bbox_2d": [{}, {}, {}, {}], "label": "region"}}]'
_KEPT: list[Any] = []


def declare_torchvision() -> None:
    """torchvision's two operators, which a build for CUDA does not declare beside a CPU torch."""
    if not torch.cuda.is_available():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


def make_model(folder: Path, template: str) -> None:
    """The untrained model with its tokenizer and processor, as a hub's folder holds them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    words = [q.format(color=c, noun=n) for q in QUESTIONS for c in COLORS for n in NOUNS]
    wording = Wording(codec(FORMAT))
    texts = [turn.text for word in words for w in (word, word.lower()) for turn in wording.detection(w)]
    texts += [turn.text for turn in wording.refcoco("the red card")] * 20
    texts += ["system\nYou are a helpful assistant.", "user\n", "assistant\n"] * 20
    texts += [", "] * 50
    bpe.train_from_iterator(texts, trainer)
    # Each fixed sentence of the prompts and each number is one token: short rows are what a CPU can train.
    fixed = [
        BOX_REQUEST,
        codec(FORMAT).form,
        *(part for part in REPLY.format("|", "|", "|", "|").split("|") if part != ", "),
    ]
    fixed += ["Locate the region this sentence describes: ", " Please provide the bounding box coordinates."]
    fixed += ["system\nYou are a helpful assistant."]
    fixed += [str(n) for n in range(NUMBERS)]
    bpe.add_tokens([AddedToken(text, normalized=False) for text in fixed])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL[1:2] + SPECIAL[3:],
        model_max_length=2048,
    )
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
            "bos_token_id": None,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 160,
            "intermediate_size": 448,
            "num_heads": 4,
            "out_hidden_size": 256,
            "window_size": 448,
            "fullatt_block_indexes": [1, 3],
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
        tie_word_embeddings=True,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [token["<|im_end|>"], token["<|endoftext|>"]]
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil(size=size),
        tokenizer,
        Qwen2VLVideoProcessor(size=size),
        chat_template=template,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
