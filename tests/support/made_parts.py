"""What tiny random models of other families are put together from: tokenizers, configs, files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

WORDS = "a an and the of is what where which how many says red green blue yellow card number region box"
TEMPLATES = Path(__file__).parent / "chat_templates"


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
"""A vision tower of two layers."""
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


def train_tokenizer(special: list[str], *, eos: str, pad: str, adds_bos: bool = False, **named: str) -> Any:
    """Byte-level BPE over a handful of words; ``named`` are tokens with a name of their own.

    ``adds_bos``: it puts its ``bos_token`` before every text, as Gemma's (to 3) and Llama's do.
    """
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
        add_bos_token=adds_bos,
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
    # As published, the weights are stored in 16 bit.
    model.bfloat16().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
