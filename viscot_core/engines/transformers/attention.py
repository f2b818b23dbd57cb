"""Attention over keys and values that several prompts share, registered with transformers under ``NAME``.

The rows of a batch are prompts about ``images`` images, the same number for each. Everything up to the end of
an image is the same for its rows: its keys and values are stored once, ``[images, kv heads, p, dim]``. The
own tokens of a row attend to all of that prefix and, causally, to those before them.

Why it is exact: softmax over the concatenation of prefix and suffix needs only the scores of both parts and
the values they weigh. Scores against the prefix do not depend on which copy of it is read, so reading the one
copy gives the same numbers as repeating it per row would: the rows of an image are folded into the query, so
that one product reads the prefix once for all of them. Two ways to compute the same thing:

- fused kernels attend to the prefix and to the own tokens apart, and tell how much all scores of each part
  weigh (the logarithm of their sum), by which both results are merged (``merged``);
- products by hand put the scores of both parts through one softmax (``folded``): on a CPU, the faster way
  where every row has one new token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad

Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor]]
BLOCK = 128
"""Queries whose scores are held at once where no kernel is used."""
NAME = "viscot_prefix"
"""Under which the attention below is registered with transformers."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, ``[images, heads, tokens, dim]``."""


class _AllRead(Exception):
    """Every layer has its keys and values."""


@contextmanager
def ends_when_read() -> Iterator[None]:
    """A forward pass in it may end once its cache has the last layer's keys and values (``all_read``).

    What comes after them (that layer's attention and MLP, the norm) gives hidden states, which nobody reads
    of what is followed by more: of eight layers it is a tenth of the work.
    """
    with suppress(_AllRead):
        yield


def all_read() -> None:
    """Called by a cache that has all."""
    raise _AllRead


class SuffixCache:
    """KV cache of a batch after its prefix: what the layers call ``past_key_values``.

    One buffer a layer of ``[rows, kv heads, tokens, dim]``, written in place. The first ``known_len`` tokens
    are what earlier batches read: ``known`` has each row's pieces ``[layers, 2, kv heads, tokens, dim]``, in
    order; rows with fewer tokens are padded on the left. ``capacity`` tokens fit behind them.
    """

    def __init__(self, capacity: int, known: Sequence[Sequence[torch.Tensor]] = ()) -> None:
        self._known = known
        self.known_lens = lengths_of(known)
        self.known_len = max(self.known_lens, default=0)
        self._capacity = self.known_len + capacity
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._filled: dict[int, int] = {}
        self._last: int | None = None

    @contextmanager
    def keys_only(self, layers: int) -> Iterator[None]:
        """The passes in it end in the last of so many layers: for ``ends_when_read``."""
        self._last = layers - 1
        try:
            yield
        finally:
            self._last = None

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens in place and give views of all so far, ``[rows, heads, tokens, dim]``."""
        if layer not in self._layers:
            self._layers[layer] = self._begun(key, layer)
        start = self._filled.get(layer, self.known_len)
        end = self._filled[layer] = start + key.shape[2]
        keys, values = self._layers[layer]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        if layer == self._last:
            all_read()
        return keys[:, :, :end], values[:, :, :end]

    def known_real(self, rows: int, device: torch.device) -> torch.Tensor:
        """Which of the tokens that are known are no padding, ``[rows, known_len]``."""
        padding = torch.tensor([self.known_len - own for own in self.known_lens] or [0] * rows, device=device)
        return torch.arange(self.known_len, device=device) >= padding[:, None]

    def piece(self, row: int, tokens: slice) -> torch.Tensor:
        """A copy of a row's keys and values, ``[layers, 2, kv heads, tokens, dim]``."""
        layers = (self._layers[layer] for layer in sorted(self._layers))
        return torch.stack([torch.stack([half[row, :, tokens] for half in layer]) for layer in layers])

    def _begun(self, like: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Buffers of a layer with what is known of its rows."""
        rows, heads, _new, dim = like.shape
        keys, values = (like.new_empty(rows, heads, self._capacity, dim) for _ in range(2))
        for half, buffer in enumerate((keys, values)):
            # Padding is hidden by a weight of 0, and 0 times what was in memory need not be 0.
            buffer[:, :, : self.known_len] = 0
            for row, pieces in enumerate(self._known):
                if pieces:
                    known = torch.cat([piece[layer, half] for piece in pieces], 1)
                    buffer[row, :, self.known_len - known.shape[1] : self.known_len] = known
        return keys, values


def lengths_of(known: Sequence[Sequence[torch.Tensor]]) -> list[int]:
    """How many tokens the pieces ``[layers, 2, kv heads, tokens, dim]`` of each row are."""
    return [sum(piece.shape[3] for piece in pieces) for pieces in known]


@contextmanager
def shared_attention(config: Any, name: str = NAME) -> Iterator[None]:
    """Let the layers of the text model with this ``config`` use the attention ``name`` for a while."""
    # Layers look their attention up in the config at each call, so the plain way, or training on the same
    # model, finds it unchanged afterwards.
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def joined_layers(prefixes: Sequence[torch.Tensor]) -> Layers:
    """Several images' keys and values ``[layers, 2, heads, tokens, dim]`` side by side, layer by layer."""
    # One image: views, nothing is copied.
    if len(prefixes) == 1:
        return [(keys[None], values[None]) for keys, values in prefixes[0]]
    return [
        (torch.stack([k for k, _ in layer]), torch.stack([v for _, v in layer]))
        for layer in zip(*prefixes, strict=True)
    ]


def prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    *,
    shared_prefix: Layers,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query [rows, heads, s, dim]`` over a shared prefix and each row's own suffix.

    ``shared_prefix`` holds ``[images, kv heads, p, dim]`` for each layer, ``key`` and ``value`` are
    ``[rows, kv heads, t, dim]``; the rows of one image stand together. ``attention_mask [rows, 1, s, t]`` is
    added to the scores of the suffix (``as_bias``); all of the prefix is visible. Returns ``[rows, s, heads,
    dim]``.
    """
    prefix_k, prefix_v = shared_prefix[module.layer_idx]
    return attend(query, key, value, prefix_k, prefix_v, attention_mask, scaling), None


def as_bias(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores: 0 where ``visible [..., t]``, else -inf."""
    t = visible.shape[-1]
    # Rows begin at multiples of 16 bytes or more, as fused kernels want them.
    bias = torch.zeros(*visible.shape[:-1], -(-t // 8) * 8, dtype=dtype, device=visible.device)
    return bias[..., :t].masked_fill_(~visible, float("-inf"))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Attention to a shared prefix and to own tokens, the faster way; shapes as in ``prefix_attention``."""
    by_hand = query.shape[2] == 1 and query.device.type == "cpu"
    return (folded if by_hand else merged)(query, key, value, prefix_k, prefix_v, mask, scaling)


def merged(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Prefix and own tokens each through a fused kernel; shapes as in ``prefix_attention``.

    With ``e`` rows an image and ``g`` query heads a kv head, every kv head of an image has ``e * g * s``
    queries for the prefix, and each row alone ``g * s`` for its own tokens.
    """
    rows, heads, s, dim = query.shape
    images, kv_heads = prefix_k.shape[:2]
    each, groups = rows // images, heads // kv_heads
    # Query heads of one kv head stand next to each other, so `heads` splits into [kv, g].
    own = query.reshape(rows, kv_heads, groups * s, dim)
    all_rows = own.view(images, each, kv_heads, groups * s, dim).transpose(1, 2)
    far, far_weight = _weighed(all_rows.reshape(images, kv_heads, -1, dim), prefix_k, prefix_v, None, scaling)
    if groups > 1:  # the mask [rows, 1, s, t] for each of the group's heads
        mask = mask.repeat_interleave(groups, 1).reshape(len(mask), 1, groups * s, -1)
    near, near_weight = _weighed(own, key, value, mask, scaling)
    far = far.reshape(images, kv_heads, each, groups * s, dim).transpose(1, 2).reshape_as(near)
    far_weight = (
        far_weight.reshape(images, kv_heads, each, groups * s).transpose(1, 2).reshape_as(near_weight)
    )
    # exp(a) / (exp(a) + exp(b)) is the share of the prefix in the softmax over both parts.
    share = torch.sigmoid(far_weight - near_weight)[..., None].to(near.dtype)
    return torch.lerp(near, far, share).reshape(rows, heads, s, dim).transpose(1, 2)


def _weighed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention ``[b, heads, s, dim]``, and the logarithm of the sum of a query's exp(scores), ``float32[b,
    heads, s]``. Keys have as many heads as ``query``; ``bias [b or 1, 1, s, t]`` is added to the scores.
    """
    if bias is not None:
        bias = bias.expand(*query.shape[:2], -1, -1)
    kernel: Kernel = _by_hand
    if query.device.type == "cpu":
        kernel = _on_cpu
    elif query.is_cuda and _agrees(query.device, query.dtype, query.shape[3]):
        kernel = _on_cuda
    return kernel(query, key, value, bias, scaling)


# torch's own kernels tell the sum to their backward pass; its public function keeps it to itself.


def _on_cuda(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    ops = torch.ops.aten
    if bias is None and _has_flash(query.device, query.dtype, query.shape[3]):
        out, weight, *_ = ops._scaled_dot_product_flash_attention(query, key, value, scale=scaling)
        return out, weight
    if bias is not None and bias.stride(2) % 8:  # as `as_bias` says
        t = bias.shape[3]
        bias = pad(bias[:, :1], (0, -t % 8))[..., :t].expand_as(bias)
    out, weight, *_ = ops._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, scale=scaling
    )
    return out, weight[..., : query.shape[2]]  # a whole number of the kernel's blocks


@cache
def _has_flash(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether FlashAttention, the fastest where nothing is hidden, takes such queries."""
    new = torch.cuda.get_device_capability(device) >= (8, 0)
    return new and dtype.itemsize == 2 and dim % 8 == 0 and dim <= 256


def _on_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, weight = kernel(query, key, value, attn_mask=bias, scale=scaling)
    return out, weight


def _by_hand(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    outs, weights = [], []
    for start in range(0, query.shape[2], BLOCK):  # not the scores of a whole crop at once
        part = slice(start, start + BLOCK)
        scores = (query[:, :, part] * scaling) @ key.transpose(2, 3)
        scores = (scores if bias is None else scores + bias[:, :, part]).float()
        weights.append(scores.logsumexp(-1))
        # Of a query that sees nothing the weight is -inf; what it gives is 0.
        least = weights[-1].clamp(min=torch.finfo(torch.float32).min)
        outs.append((scores - least[..., None]).exp().to(value.dtype) @ value)
    return torch.cat(outs, 2), torch.cat(weights, 2)


@cache
def _agrees(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether the kernels of ``device`` do what is expected of them, as these are no public functions."""
    made = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, n, dim, generator=made).to(device, dtype) for n in (3, 7, 7))
    mask = as_bias(torch.ones(3, 7, dtype=torch.bool, device=device).tril(4)[None, None], dtype)
    atol = 1e-4 if dtype == torch.float32 else 0.05
    try:
        with torch.inference_mode():
            for bias in (None, mask.expand(2, 2, -1, -1)):
                ways = [kernel(query, key, value, bias, dim**-0.5) for kernel in (_on_cuda, _by_hand)]
                for found, wanted in zip(*ways, strict=True):
                    if not torch.allclose(found.float(), wanted.float(), atol=atol):
                        return False
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def folded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Scores of both parts through one softmax; shapes as in ``prefix_attention``, letters as in `merged`."""
    rows, heads, s, dim = query.shape
    images, kv_heads, p, _ = prefix_k.shape
    each, groups = rows // images, heads // kv_heads
    # [images, e, kv, g * s, dim]; one image's rows next to each other for the product below.
    query = (query * scaling).reshape(images, each, kv_heads, groups * s, dim)
    folded = query.transpose(1, 2).reshape(images, kv_heads, each * groups * s, dim)
    # Scores against the prefix, one product an image: [images, kv, e, g, s, p].
    far = (folded @ prefix_k.transpose(2, 3)).view(images, kv_heads, each, groups, s, p)
    # Scores against each row's own tokens: [rows, kv, g, s, t], later tokens hidden.
    near = query.reshape(rows, kv_heads, groups * s, dim) @ key.transpose(2, 3)
    # The mask [rows, 1, s, t] gets an axis for g: [rows, 1, 1, s, t].
    near = near.view(rows, kv_heads, groups, s, -1) + mask[:, :, None]
    near = near.view(images, each, kv_heads, groups, s, -1).transpose(1, 2)
    # One softmax over both parts, in float32 as the models' own attention does it.
    weights = torch.cat([far, near], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    # The weighted sum over joined keys is the sum of both parts' weighted sums; the parts' weights go back to
    # the shapes in which their values are stored.
    far_weights = weights[..., :p].reshape(images, kv_heads, each * groups * s, p)
    near_weights = weights[..., p:].transpose(1, 2).reshape(rows, kv_heads, groups * s, -1)
    out = (far_weights @ prefix_v).view(images, kv_heads, each, groups * s, dim).transpose(1, 2)
    out = out.reshape(rows, kv_heads, groups * s, dim) + near_weights @ value
    # A model's query is a transposed view: a sum in its layout has no view as [rows, heads, s, dim].
    return out.reshape(rows, heads, s, dim).transpose(1, 2)
