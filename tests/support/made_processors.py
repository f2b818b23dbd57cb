"""LLaVA's processor around a tokenizer, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.families.llava.scratch import train_tokenizer
from viscot_core.families.llava.template import TEMPLATES


def processor_of(tokens: ChatTokenizer, template: str = "vicuna_v1", side: int = 28) -> ChatProcessor:
    """For images of ``side`` pixels, whatever the number of tokens that they take."""
    rows = len(tokens.hf)
    text = SimpleNamespace(max_position_embeddings=4096, vocab_size=rows)
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=side), text_config=text)
    return ChatProcessor(tokens, TEMPLATES[template], config, rows)


def small_processor(words: list[str] | None = None, *, image_tokens: int = 4, **fields: Any) -> ChatProcessor:
    """A tokenizer of these words, under the tiny template."""
    tokenizer = train_tokenizer(words or ["what is it"], vocab_size=300, max_positions=256)
    return processor_of(ChatTokenizer(tokenizer, image_tokens=image_tokens), "tiny", **fields)
