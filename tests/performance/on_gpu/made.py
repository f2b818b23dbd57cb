"""Made weights, images and words: shapes of real models, drawn at random, nothing read from disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from on_gpu.viscot_side import prompt_texts


@dataclass(frozen=True)
class Size:
    """A model's shape and how much of everything is done with it."""

    name: str
    width: int
    layers: int
    heads: int
    mlp: int
    vocab: int
    tower: tuple[int, int, int, int]  # width, layers, heads, mlp
    side: int
    items: tuple[int, int]  # of the two image sizes, at most
    refer: int  # images with nine expressions
    rows: tuple[int, ...]  # of a decoding step
    plain: int  # items through transformers' generate
    train_layers: int
    lora: int
    samples: int  # of a training step
    lines: int  # prompts whose logits are compared
    probe: tuple[int, int]  # of the matrix product and the copy (MiB) that are timed


SIZES = {
    "7b": Size(
        "7b", 4096, 32, 32, 11008, 32064, (1024, 24, 16, 4096), 336, (352, 176), 116, (1, 16, 48), 48, 8, 128,
        16, 6, (8192, 2048),
    ),
    "toy": Size(
        "toy", 64, 3, 4, 128, 2112, (32, 3, 4, 64), 56, (6, 4), 2, (1, 3), 4, 2, 4, 4, 3, (256, 8),
    ),
}  # fmt: skip
IMAGE_SIZES = ((640, 480), (1700, 2200))
QUESTIONS = (
    "What is written on the sign?",
    "Which color is the large shape on the left?",
    "How many are there?",
)
REFERRED = "The thing number {} on the left"
WORDS = "the small round thing beside a tall one is what this question asks about and where".split()  # noqa: SIM905


def make_tokenizer(size: Size) -> Any:
    """Byte-level BPE that knows the prompts' words (as long in tokens as LLaMA's), filled up to ``vocab``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    words = Regex(r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]|\s")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = [REFERRED.format(n) for n in range(10)]
    texts = prompt_texts([*QUESTIONS, *numbers, " ".join(WORDS)])
    backend.train_from_iterator([t for text in texts for t in (text, text.lower())] * 3, trainer)
    state = json.loads(backend.to_str())
    vocabulary = state["model"]["vocab"]
    rows = size.vocab - 64
    fillers = (chr(code) for code in range(0x4E00, 0x4E00 + 2 * rows) if not 0xD800 <= code < 0xE000)
    for number in range(len(vocabulary), rows):
        vocabulary[next(fillers)] = number
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>"],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_model(size: Size, tokenizer: Any, device: str, dtype: Any, layers: int | None = None) -> Any:
    """Random weights of the shape, made where they stay."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    width, depth, heads, mlp = size.tower
    vision = CLIPVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=mlp,
        image_size=size.side,
        patch_size=14,
        projection_dim=width,
    )
    text = LlamaConfig(
        hidden_size=size.width,
        num_hidden_layers=layers or size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.mlp,
        vocab_size=size.vocab,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(size.side // 14) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=dtype)
    return model.eval()


def cast(model: Any, dtype: Any) -> None:
    """Weights in another precision; buffers (the rotary frequencies) stay in fp32, as a loaded model's."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
