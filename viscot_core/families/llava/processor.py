"""LLaVA's conversations: template, tokens and square pixels of one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from viscot_core.boxes.geometry import Size
from viscot_core.conversation import Message
from viscot_core.families.base import Rendered
from viscot_core.families.llava.chat import ChatTokenizer
from viscot_core.families.llava.template import Template, prompt_text, render


class LlavaProcessor:
    """``tokens`` under ``template``; ids from ``text_rows`` on (image token, padding) are never said."""

    def __init__(self, tokens: ChatTokenizer, template: Template, config: Any, text_rows: int) -> None:
        self.tokens = tokens
        self.template = template
        self.text_rows = text_rows
        self.image_side = int(config.vision_config.image_size)
        self.context = int(config.text_config.max_position_embeddings)
        self.stop_ids = frozenset({tokens.eos_id})
        self.pad_id = tokens.pad_id
        rows = int(config.text_config.vocab_size)
        self.suppress_tokens = sorted({tokens.image_id, *range(text_rows, rows)})
        self.identity = {"turn_tokens": tokens.turn_tokens, "template": template.name}
        self.typical_prompt = 2 * tokens.image_tokens + 256

    def render(
        self, messages: Sequence[Message], sizes: Sequence[Size], *, generate: bool = False
    ) -> Rendered:
        """Ids and labels; every image is a square of as many tokens, whatever its size."""
        chunks = render(messages, self.template, generate=generate)
        if chunks.n_images != len(sizes):
            raise ValueError(f"the prompt has {chunks.n_images} <image> marks for {len(sizes)} images")
        return self.tokens.encode(chunks)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The template's text, images as ``<image>``."""
        return prompt_text(messages, self.template)

    def text(self, ids: Sequence[int]) -> str:
        """Words of generated ids, special tokens left out."""
        return self.tokens.text(ids)

    def settled_text(self, ids: Sequence[int]) -> str:
        """The beginning of ``text(ids)`` that stays, whatever tokens follow."""
        return self.tokens.settled_text(ids)
