"""Attention over keys and values that several prompts share, registered with transformers under ``NAME``.

The prompts about one image attend to the one copy of what stands before their questions, the batch folded
into the query: sixteen questions read the image's keys once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "viscot_prefix"
"""Under which the attention below is registered with transformers."""
FOLD_UP_TO = 128
"""Queries a row up to which scores are made by hand; above, a fused kernel over joined keys is faster."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, ``[images, heads, tokens, dim]``."""


class Suffix:
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


@contextmanager
def shared_attention(config: Any) -> Iterator[None]:
    """Let the layers of the text model with this ``config`` use ``prefix_attention`` for a while."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def joined_layers(prefixes: Sequence[Layers]) -> Layers:
    """Several images' keys and values side by side; one image's as they are."""
    if len(prefixes) == 1:
        return prefixes[0]
    return [
        (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer]))
        for layer in zip(*prefixes, strict=True)
    ]


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

    ``shared_prefix`` holds ``[images, kv heads, p, dim]``; the rows of one image stand together.
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
    images, kv_heads, p, _ = before_k.shape
    each, groups = rows // images, heads // kv_heads
    query = (query * scaling).view(images, each, kv_heads, groups * s, dim)
    folded = query.transpose(1, 2).reshape(images, kv_heads, each * groups * s, dim)
    far = (folded @ before_k.transpose(2, 3)).view(images, kv_heads, each, groups, s, p)
    near = query.reshape(rows, kv_heads, groups * s, dim) @ key.transpose(2, 3)
    near = near.view(rows, kv_heads, groups, s, -1).masked_fill(~mask[:, :, None], float("-inf"))
    near = near.view(images, each, kv_heads, groups, s, -1).transpose(1, 2)
    weights = torch.cat([far, near], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    far_weights = weights[..., :p].reshape(images, kv_heads, each * groups * s, p)
    near_weights = weights[..., p:].transpose(1, 2).reshape(rows, kv_heads, groups * s, -1)
    out = (far_weights @ before_v).view(images, kv_heads, each, groups * s, dim).transpose(1, 2)
    out = out.reshape(rows, kv_heads, groups * s, dim) + near_weights @ value
    return out.view(rows, heads, s, dim).transpose(1, 2)
