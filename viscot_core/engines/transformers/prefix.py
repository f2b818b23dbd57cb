"""Shared-prefix decoding: what comes before the questions about an image is read once.

Every prompt about an image begins with the same system text and the same image tokens. Their keys and values
are computed once per image and kept: for both turns of a chain, for all strategies, for all expressions about
the image. Prompts about one image run together and attend to the one copy (``attention.py``), so that sixteen
questions cost one image and sixteen short texts. Equal to the plain way token for token (in
float32; tests/engines/transformers/test_prefix.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from viscot_core.engines.transformers.attention import (
    NAME,
    SuffixCache,
    joined_layers,
    prefix_attention,
    shared_attention,
)
from viscot_core.engines.transformers.batches import BatchBudget, by_image
from viscot_core.engines.transformers.choosing import Choice, Draws, choose, tell, tell_first
from viscot_core.engines.transformers.decode_state import DecodeState, Decoding
from viscot_core.engines.transformers.graphs import StaticDecoder
from viscot_core.engines.transformers.work import Work
from viscot_core.families.inputs import PrefixInputs, Suffix

KEPT_BYTES = 128 << 20
"""What is kept of images on a CPU at least; more for models whose weights are four times that."""
KEPT_SHARE = 0.25
"""What is kept on a GPU, of the memory that is free: the images of a batch (``batches.fitting_batch``)."""
PREFILL_IMAGES = 16
"""Prefixes computed at once: more do not make a device faster, and cost memory."""


class PrefixStore:
    """Keys and values by prefix, the least recently used dropped beyond ``max_bytes``.

    Those of an image are one tensor ``[layers, 2, kv heads, tokens, dim]``. ``computed`` and ``reused`` count
    prefixes, for the tests and the benchmark's report.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self.computed = 0
        self.reused = 0

    def get(self, key: str) -> torch.Tensor | None:
        """What is kept of ``key``, now the most recently used."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.reused += 1
        return found

    def put(self, key: str, prefix: torch.Tensor) -> None:
        """Keep ``prefix``; drop others until they fit (the newest is always kept)."""
        self.computed += 1
        self._kept[key] = prefix
        self._bytes += prefix.nbytes
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Drop all that is kept."""
        self._kept.clear()
        self._bytes = 0


class PrefixDecoder:
    """Decoding of prompts that begin with an image.

    Args:
        model: the whole model; its embeddings and its head are used.
        text: its text model, as the family's ``prefix_model`` gives it.
        suppress_tokens: ids that are never said.

    ``static`` decodes in buffers of fixed shapes (``graphs.py``): how a GPU is used; None grows them.
    """

    def __init__(
        self,
        model: Any,
        text: Any,
        inputs: PrefixInputs,
        *,
        suppress_tokens: Sequence[int] = (),
        max_bytes: int | None = None,
    ) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, prefix_attention)
        self._model = model
        self._text = text
        self._inputs = inputs
        self._head = model.get_output_embeddings()
        device = self._head.weight.device
        self._suppressed = torch.tensor(list(suppress_tokens), dtype=torch.long, device=device)
        self.store = PrefixStore(_budget(model) if max_bytes is None else max_bytes)
        self.static = self.static_decoder(graphs=True) if uses_static(device.type, inputs) else None

    def static_decoder(self, *, graphs: bool) -> StaticDecoder:
        """Decoding in static buffers, each step captured or not."""
        return StaticDecoder(
            self._text,
            lambda ids: self._model.get_input_embeddings()(ids),
            lambda hidden: self._logits(hidden),
            self._suppressed,
            graphs=graphs,
        )

    def clear(self) -> None:
        """Forget prefixes and free buffers: the weights have changed, or memory ran out."""
        self.store.clear()
        if self.static is not None:
            self.static.clear()

    def fits(self, one: Decoding) -> bool:
        """Whether the prompt has an image and words after it."""
        return 0 < self._inputs.prefix_len(one.prompt) < len(one.ids)

    def generate(self, prompts: Sequence[Decoding], budget: BatchBudget, work: Work) -> None:
        """Decode every prompt to its end; ``budget`` bounds a batch, ``work`` counts what is computed."""
        measured = [(self._inputs.prefix_len(one.prompt), one) for one in prompts]
        for pieces in by_image(measured, budget):
            self._run([one for piece in pieces for one in piece], len(pieces), work)

    def _run(self, prompts: Sequence[Decoding], images: int, work: Work) -> None:
        """Decode prompts that stand image by image, the same number for each of ``images``."""
        prefix_len, computed = self._inputs.prefix_len(prompts[0].prompt), self.store.computed
        # The first prompt of each image stands for the image.
        prefixes = self._prefixes(prompts[:: len(prompts) // images], prefix_len)
        states = [one.state for one in prompts]
        # Left-padded: the last column is every row's newest token. Static buffers want the right (static.py).
        suffix = self._inputs.suffix([one.prompt for one in prompts], prefix_len, left=self.static is None)
        if self.static is None:
            self._grow(states, prefixes, suffix)
        else:
            lengths = [len(one.ids) - prefix_len for one in prompts]
            self.static.run(states, prefixes, suffix.arguments["inputs_embeds"], lengths)
        work.add_prefixes(self.store.computed - computed, prefix_len)
        work.add_prompts(prompts, prefix_len)

    def _grow(self, states: Sequence[DecodeState], prefixes: Sequence[torch.Tensor], suffix: Suffix) -> None:
        """Decode rows with a cache that grows by a token a step.

        ``mask [rows, 1, n, all so far]`` says which of its row's own tokens each may see.
        """
        shared = joined_layers(prefixes)
        arguments, real, positions = suffix.arguments, suffix.real, suffix.positions
        rows, longest = real.shape
        cache = SuffixCache(longest + max(state.limit for state in states))
        choice, said = Choice.of(states), 0
        draws = Draws.of(states, real.device) if choice.samples else None
        causal = torch.ones(longest, longest, dtype=torch.bool, device=real.device).tril()
        mask = causal[None, None] & real[:, None, None, :]
        with shared_attention(self._text.config.get_text_config()):
            while True:
                hidden = self._text(
                    **arguments,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    shared_prefix=shared,
                ).last_hidden_state[:, -1]
                logits = self._logits(hidden)
                if said == 0:
                    tell_first(states, logits)
                number = None if draws is None else draws.numbers[:, said, None]
                new, logprobs = choose(logits, self._suppressed, choice, draws, number)
                tell(states, new[:, None], None if logprobs is None else logprobs[:, None])
                said += 1
                if not any(state.open for state in states):
                    return
                arguments = self._inputs.next(new)
                # The last token of a prompt is text, and so is every new one: its axes are equal.
                positions = positions[..., -1:] + 1
                real = torch.cat([real, real.new_ones(rows, 1)], 1)
                mask = real[:, None, None, :]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[rows, hidden]`` -> ``[rows, vocabulary]``."""
        logits: torch.Tensor = self._head(hidden)
        return logits

    def _prefixes(self, prompts: Sequence[Decoding], prefix_len: int) -> list[torch.Tensor]:
        """Keys and values of each prompt's prefix, computed where they are not kept."""
        # The ids are part of the key: other words before the same image give other keys and values.
        keys = [f"{one.prompt.images[0].key}\0{one.ids[:prefix_len]}" for one in prompts]
        found = {key: prefix for key in keys if (prefix := self.store.get(key)) is not None}
        # Each prefix once, however many prompts of the batch want it.
        missing = list({k: one for k, one in zip(keys, prompts, strict=True) if k not in found}.items())
        for start in range(0, len(missing), PREFILL_IMAGES):
            from transformers import DynamicCache

            some = missing[start : start + PREFILL_IMAGES]
            cache = DynamicCache(config=self._text.config.get_text_config())
            arguments = self._inputs.prefix([one.prompt for _, one in some], prefix_len)
            # All are `prefix_len` long: no padding, so the model's own causal attention needs no mask.
            self._text(**arguments, past_key_values=cache, use_cache=True)
            for row, (key, _) in enumerate(some):
                # [2 * layers, kv heads, p, dim] -> [layers, 2, ...]. A copy, so that the cache of the batch
                # is freed.
                halves = [half[row] for layer in cache.layers for half in (layer.keys, layer.values)]
                # Kept in `found` as well: the store may drop it again before this batch has run.
                found[key] = torch.stack(halves).unflatten(0, (-1, 2))
                self.store.put(key, found[key])
        return [found[key] for key in keys]


def uses_static(device: str, inputs: PrefixInputs) -> bool:
    """Whether decoding goes through static buffers: on a GPU, for inputs that are embeddings alone."""
    return device == "cuda" and inputs.embeds


def _budget(model: Any) -> int:
    """How many bytes of keys and values to keep."""
    if model.device.type != "cuda":
        return max(KEPT_BYTES, sum(weights.nbytes for weights in model.parameters()) // 4)
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free * KEPT_SHARE)
