"""The words before the question and the image are read once: shared-prefix decoding.

Every prompt about an image begins with the same system text and the same image tokens. Their keys and
values are computed once per image and kept: for both turns of a chain, for all strategies, for all
expressions about the image. Prompts about one image run together and attend to the one copy
(``attention.py``), so that sixteen questions cost one image and sixteen short texts. Greedy, and equal to
the plain way token for token (in float32; tests/engines/test_prefix.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from viscot_core.engines.transformers.attention import (
    NAME,
    Layers,
    Suffix,
    joined_layers,
    prefix_attention,
    shared_attention,
)
from viscot_core.engines.transformers.batches import Room, by_image
from viscot_core.engines.transformers.decode_state import Prompt
from viscot_core.engines.transformers.embedding import Embedder
from viscot_core.families.llava.chat import ChatTokenizer

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

KEPT_BYTES = 128 << 20
"""What is kept of images on a CPU at least; more for models whose weights are four times that."""
KEPT_SHARE = 0.4
"""What is kept on a GPU, of the memory that is free."""


class PrefixStore:
    """Keys and values by prefix, the least recently used dropped beyond ``max_bytes``.

    ``computed`` and ``reused`` count prefixes, for the tests and the benchmark's report.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Layers] = OrderedDict()
        self._bytes = 0
        self.computed = 0
        self.reused = 0

    def get(self, key: str) -> Layers | None:
        """What is kept of ``key``, now the most recently used."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.reused += 1
        return found

    def put(self, key: str, layers: Layers) -> None:
        """Keep ``layers``; drop others until they fit (the newest is always kept)."""
        self.computed += 1
        self._kept[key] = layers
        self._bytes += _bytes(layers)
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop all that is kept."""
        self._kept.clear()
        self._bytes = 0


def _bytes(layers: Layers) -> int:
    return sum(k.nbytes + v.nbytes for k, v in layers)


class PrefixDecoder:
    """Greedy decoding of prompts that begin with an image. ``never`` are ids that are not to be said."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokens: ChatTokenizer,
        embedder: Embedder,
        *,
        never: Sequence[int] = (),
        max_bytes: int | None = None,
    ) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, prefix_attention)
        self._model = model
        self._text = model.model.language_model
        self._tokens = tokens
        self._embedder = embedder
        self._never = torch.tensor(list(never), dtype=torch.long, device=model.lm_head.weight.device)
        self.store = PrefixStore(_budget(model) if max_bytes is None else max_bytes)

    @staticmethod
    def supports(model: LlavaForConditionalGeneration) -> bool:
        """Whether the text model is one whose attention this replaces: Llama's, in its plain kernels, on one
        device (masks and what is kept of an image live where the first layer does).
        """
        from transformers import LlamaModel

        config = model.config.text_config
        plain = config._attn_implementation in ("sdpa", "eager")
        spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
        return plain and not spread and isinstance(model.model.language_model, LlamaModel)

    def fits(self, prompt: Prompt) -> bool:
        """Whether the prompt has an image and words after it."""
        return bool(prompt.views) and self._cut(prompt) < len(prompt.ids)

    def generate(self, prompts: Sequence[Prompt], room: Room) -> None:
        """Let every prompt's speech come to its end; ``room`` bounds a batch."""
        for pieces in by_image([(self._cut(prompt), prompt) for prompt in prompts], room):
            self._run([prompt for piece in pieces for prompt in piece], images=len(pieces))

    def _cut(self, prompt: Prompt) -> int:
        """Where the prefix ends: after the first image's tokens."""
        return prompt.ids.index(self._tokens.image_id) + self._tokens.image_tokens

    def _run(self, prompts: Sequence[Prompt], images: int) -> None:
        """Decode prompts that stand image by image, the same number for each of ``images``."""
        cut = self._cut(prompts[0])
        each = len(prompts) // images
        speeches = [prompt.speech for prompt in prompts]
        shared = joined_layers(self._prefixes(prompts[::each], cut))
        embeddings, real = self._embedder.embed(
            [p.ids[cut:] for p in prompts], [p.views[1:] for p in prompts]
        )
        rows, longest = real.shape
        suffix = Suffix(longest + max(speech.limit for speech in speeches))
        positions = cut + (real.cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(longest, longest, dtype=torch.bool, device=real.device).tril()
        mask = causal[None, None] & real[:, None, None, :]
        with shared_attention(self._text.config):
            while True:
                hidden = self._text(
                    inputs_embeds=embeddings,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=suffix,
                    use_cache=True,
                    shared_prefix=shared,
                ).last_hidden_state[:, -1]
                new = self._choose(hidden)
                for speech, token in zip(speeches, new.tolist(), strict=True):
                    speech.add(token)
                if not any(speech.open for speech in speeches):
                    return
                embeddings = self._model.get_input_embeddings()(new[:, None])
                positions = positions[:, -1:] + 1
                real = torch.cat([real, real.new_ones(rows, 1)], 1)
                mask = real[:, None, None, :]

    def _choose(self, hidden: torch.Tensor) -> torch.Tensor:
        """The likeliest id of each row ``[rows, hidden]``."""
        logits = self._model.lm_head(hidden)
        logits[:, self._never] = float("-inf")
        return logits.argmax(-1)

    def _prefixes(self, prompts: Sequence[Prompt], cut: int) -> list[Layers]:
        """Keys and values of each prompt's prefix, computed where they are not kept."""
        keys = [f"{p.views[0].key}\0{p.ids[:cut]}" for p in prompts]
        found = {key: layers for key in keys if (layers := self.store.get(key)) is not None}
        missing = {key: p for key, p in zip(keys, prompts, strict=True) if key not in found}
        if missing:
            from transformers import DynamicCache

            cache = DynamicCache(config=self._model.config.text_config)
            embeddings, _ = self._embedder.embed(
                [p.ids[:cut] for p in missing.values()], [p.views[:1] for p in missing.values()]
            )
            self._text(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
            for row, key in enumerate(missing):
                layers = [
                    (one.keys[row : row + 1].clone(), one.values[row : row + 1].clone())
                    for one in cache.layers
                ]
                found[key] = layers
                self.store.put(key, layers)
        return [found[key] for key in keys]


def _budget(model: LlavaForConditionalGeneration) -> int:
    """How many bytes of keys and values to keep."""
    if model.device.type != "cuda":
        return max(KEPT_BYTES, sum(weights.nbytes for weights in model.parameters()) // 4)
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free * KEPT_SHARE)
