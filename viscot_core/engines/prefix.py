"""The words before the question and the picture are read once: shared-prefix decoding.

Every prompt about a picture begins with the same system text and the same image tokens. Their keys and
values are computed once per picture and kept: for both turns of a chain, for all strategies, for all
expressions about the picture. Prompts about one picture run together and attend to the one copy, the batch
folded into the query, so that sixteen questions cost one picture and sixteen short texts. Greedy, and equal
to the plain way token for token (in float32; tests/engines/test_prefix.py).
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from viscot_core.engines.vision import FeatureCache
from viscot_core.images import View
from viscot_core.models.tokens import ChatTokenizer

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

NAME = "viscot_prefix"
"""Under which the attention below is registered with transformers."""
FOLD_UP_TO = 128
"""Queries a row up to which scores are made by hand; above, a fused kernel over joined keys is faster."""
MOST_ROWS = 64
"""More prompts than this gain nothing by running together."""
KEPT_BYTES = 128 << 20
"""What is kept of pictures on a CPU at least; more for models whose weights are four times that."""
KEPT_SHARE = 0.4
"""What is kept on a GPU, of the memory that is free."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, ``[pictures, heads, tokens, dim]``."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with image tokens expanded, the views they stand for, and how many new tokens are wanted."""

    ids: list[int]
    views: tuple[View, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class Room:
    """How much runs together: ``rows`` prompts, or, with ``tokens``, as many as that many keys hold."""

    rows: int
    tokens: int | None = None

    def rows_of_one(self, before: int, own: int) -> int:
        """Prompts about one picture, with ``before`` shared tokens and ``own`` tokens each."""
        if self.tokens is None:
            return self.rows
        return max(1, min(MOST_ROWS, (self.tokens - before) // own))

    def pictures(self, each: int, before: int, own: int) -> int:
        """Pictures with ``each`` prompts."""
        if self.tokens is None:
            return max(1, self.rows // each)
        return max(1, min(MOST_ROWS // each, self.tokens // (before + each * own)))


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


def _bytes(layers: Layers) -> int:
    return sum(k.nbytes + v.nbytes for k, v in layers)


class _Suffix:
    """The growing keys and values of a batch after its prefix: what the layers call ``past_key_values``."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._filled: dict[int, int] = {}

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens in place and give views of all so far, ``[rows, heads, tokens, dim]``."""
        if layer not in self._layers:
            rows, heads, _new, dim = key.shape
            self._layers[layer] = (
                key.new_empty(rows, heads, self._capacity, dim),
                value.new_empty(rows, heads, self._capacity, dim),
            )
        start = self._filled.get(layer, 0)
        end = self._filled[layer] = start + key.shape[2]
        keys, values = self._layers[layer]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        return keys[:, :, :end], values[:, :, :end]


def prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    shared_prefix: Layers,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query [rows, heads, s, dim]`` over a shared prefix and each row's own suffix.

    ``shared_prefix`` holds ``[pictures, kv heads, p, dim]``; the rows of one picture stand together.
    ``attention_mask`` is boolean ``[rows, 1, s, t]`` over the suffix; all of the prefix is visible.
    """
    before_k, before_v = shared_prefix[module.layer_idx]
    if query.shape[2] > FOLD_UP_TO:
        return _joined(query, key, value, before_k, before_v, attention_mask, scaling), None
    return _folded(query, key, value, before_k, before_v, attention_mask, scaling), None


def _joined(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    before_k: torch.Tensor,
    before_v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    rows, heads, s, _dim = query.shape
    each = rows // before_k.shape[0]
    if each > 1:
        before_k, before_v = (t.repeat_interleave(each, 0) for t in (before_k, before_v))
    keys, values = torch.cat([before_k, key], 2), torch.cat([before_v, value], 2)
    visible = mask.new_ones(rows, 1, s, before_k.shape[2])
    groups = heads // keys.shape[1]
    if groups > 1:
        keys, values = (t.repeat_interleave(groups, 1) for t in (keys, values))
    out = scaled_dot_product_attention(
        query, keys, values, attn_mask=torch.cat([visible, mask], 3), scale=scaling
    )
    return out.transpose(1, 2)


def _folded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    before_k: torch.Tensor,
    before_v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    rows, heads, s, dim = query.shape
    pictures, kv_heads, p, _ = before_k.shape
    each, groups = rows // pictures, heads // kv_heads
    query = (query * scaling).view(pictures, each, kv_heads, groups * s, dim)
    folded = query.transpose(1, 2).reshape(pictures, kv_heads, each * groups * s, dim)
    far = (folded @ before_k.transpose(2, 3)).view(pictures, kv_heads, each, groups, s, p)
    near = query.reshape(rows, kv_heads, groups * s, dim) @ key.transpose(2, 3)
    near = near.view(rows, kv_heads, groups, s, -1).masked_fill(~mask[:, :, None], float("-inf"))
    near = near.view(pictures, each, kv_heads, groups, s, -1).transpose(1, 2)
    weights = torch.cat([far, near], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    far_weights = weights[..., :p].reshape(pictures, kv_heads, each * groups * s, p)
    near_weights = weights[..., p:].transpose(1, 2).reshape(rows, kv_heads, groups * s, -1)
    out = (far_weights @ before_v).view(pictures, kv_heads, each, groups * s, dim).transpose(1, 2)
    out = out.reshape(rows, kv_heads, groups * s, dim) + near_weights @ value
    return out.view(rows, heads, s, dim).transpose(1, 2)


class PrefixDecoder:
    """Greedy decoding of prompts that begin with a picture. ``never`` are ids that are not to be said."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokens: ChatTokenizer,
        vision: FeatureCache,
        *,
        never: Sequence[int] = (),
        max_bytes: int | None = None,
    ) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, prefix_attention)
        self._model = model
        self._text = model.model.language_model
        self._tokens = tokens
        self._vision = vision
        self._never = torch.tensor(list(never), dtype=torch.long, device=model.lm_head.weight.device)
        self._context = int(model.config.text_config.max_position_embeddings)
        self.store = PrefixStore(_budget(model) if max_bytes is None else max_bytes)

    @staticmethod
    def supports(model: LlavaForConditionalGeneration) -> bool:
        """Whether the text model is one whose attention this replaces: Llama's, in its plain kernels."""
        from transformers import LlamaModel

        config = model.config.text_config
        plain = config._attn_implementation in ("sdpa", "eager")
        return plain and isinstance(model.model.language_model, LlamaModel)

    def fits(self, prompt: Prompt) -> bool:
        """Whether the prompt has a picture and words after it."""
        cut = self._cut(prompt)
        return cut is not None and cut < len(prompt.ids)

    def generate(self, prompts: Sequence[Prompt], room: Room) -> list[list[int]]:
        """New ids of each prompt, in order, up to and with the end token; ``room`` bounds a batch."""
        said: dict[int, list[int]] = {}
        for batch in self._batches(prompts, room):
            rows = [prompts[number] for group in batch for number in group]
            numbers = [number for group in batch for number in group]
            said.update(zip(numbers, self._run(rows, pictures=len(batch)), strict=True))
        return [said[number] for number in range(len(prompts))]

    def _cut(self, prompt: Prompt) -> int | None:
        """Where the prefix ends: after the first picture's tokens."""
        if not prompt.views:
            return None
        return prompt.ids.index(self._tokens.image_id) + self._tokens.image_tokens

    def _batches(self, prompts: Sequence[Prompt], room: Room) -> Iterator[list[list[int]]]:
        """Groups of prompts about one picture, groups of one size together; the longest first.

        Prompts with and without a second picture differ in length by its tokens, so they never share a batch.
        """
        groups: dict[tuple[int, int, str], list[int]] = defaultdict(list)
        own: dict[tuple[int, int], int] = defaultdict(int)
        for number, prompt in enumerate(prompts):
            views, cut = len(prompt.views), self._cut(prompt) or 0
            groups[views, cut, prompt.views[0].key].append(number)
            own[views, cut] = max(own[views, cut], len(prompt.ids) - cut + prompt.limit)
        alike: dict[tuple[int, int, int], list[list[int]]] = defaultdict(list)
        for (views, cut, _), numbers in groups.items():
            numbers.sort(key=lambda number: len(prompts[number].ids))
            most = room.rows_of_one(cut, own[views, cut])
            for start in range(0, len(numbers), most):
                piece = numbers[start : start + most]
                alike[views, cut, len(piece)].append(piece)
        for views, cut, each in sorted(alike, reverse=True):
            pieces = sorted(alike[views, cut, each], key=lambda piece: -len(prompts[piece[-1]].ids))
            together = room.pictures(each, cut, own[views, cut])
            for start in range(0, len(pieces), together):
                yield pieces[start : start + together]

    def _run(self, prompts: Sequence[Prompt], pictures: int) -> list[list[int]]:
        """Decode prompts that stand picture by picture, the same number for each of ``pictures``."""
        cut = self._cut(prompts[0]) or 0
        each = len(prompts) // pictures
        shared = _joined_layers(self._prefixes(prompts[::each], cut))
        embeddings, real = self._embed([p.ids[cut:] for p in prompts], [p.views[1:] for p in prompts])
        rows, longest = real.shape
        limits = [min(p.limit, self._context - len(p.ids)) for p in prompts]
        suffix = _Suffix(longest + max(limits))
        positions = cut + (real.cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(longest, longest, dtype=torch.bool, device=real.device).tril()
        mask = causal[None, None] & real[:, None, None, :]
        said: list[list[int]] = [[] for _ in prompts]
        open_rows = set(range(rows))
        with self._attention():
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
                for row, token in enumerate(new.tolist()):
                    if row not in open_rows:
                        continue
                    said[row].append(token)
                    if token == self._tokens.eos_id or len(said[row]) >= limits[row]:
                        open_rows.discard(row)
                if not open_rows:
                    return said
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
            embeddings, _ = self._embed(
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

    def _embed(
        self, ids: Sequence[Sequence[int]], views: Sequence[Sequence[View]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded embeddings ``[rows, n, hidden]`` with pictures in place, and which are no padding."""
        longest = max(map(len, ids))
        padded = torch.full((len(ids), longest), self._tokens.pad_id, dtype=torch.long)
        real = torch.zeros_like(padded, dtype=torch.bool)
        for row, one in enumerate(ids):
            padded[row, longest - len(one) :] = torch.tensor(one)
            real[row, longest - len(one) :] = True
        table = self._model.get_input_embeddings()
        padded = padded.to(table.weight.device)
        embeddings = table(padded)
        shown = [view for row in views for view in row]
        if shown:
            features = torch.cat(self._vision.features(shown)).to(embeddings.device, embeddings.dtype)
            embeddings[padded == self._tokens.image_id] = features
        return embeddings, real.to(embeddings.device)

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """Let the text model's layers use ``prefix_attention`` for a while."""
        config = self._text.config
        before = config._attn_implementation
        config._attn_implementation = NAME
        try:
            yield
        finally:
            config._attn_implementation = before


def _joined_layers(prefixes: Sequence[Layers]) -> Layers:
    """Several pictures' keys and values side by side; one picture's as they are."""
    if len(prefixes) == 1:
        return prefixes[0]
    return [
        (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer]))
        for layer in zip(*prefixes, strict=True)
    ]


def _budget(model: LlavaForConditionalGeneration) -> int:
    """How many bytes of keys and values to keep."""
    if model.device.type != "cuda":
        return max(KEPT_BYTES, sum(weights.nbytes for weights in model.parameters()) // 4)
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free * KEPT_SHARE)
