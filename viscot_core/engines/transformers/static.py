"""Buffers of one shape for decoding: every step runs the same kernels on the same memory.

On a GPU a step of the growing way (``prefix.py``) costs 30 ms on the host whatever it computes. With static
buffers it can be captured once as a CUDA graph and replayed (``graphs.py``). The rows' own tokens are
right-padded when they are read, so that plain causal attention is exact and needs no mask; while decoding, a
mask hides the padding and the slots that are not filled yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from viscot_core.engines.transformers.attention import as_bias, attend, lengths_of
from viscot_core.engines.transformers.choosing import Draws

STATIC_NAME = "viscot_static"
"""Under which the attention below is registered with transformers."""
TOKENS_STEP = 64
"""Buffers hold a multiple of so many tokens, so that few shapes occur."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Sizes of a batch's buffers: ``each`` rows for each of ``images``, ``slots`` own tokens a row."""

    images: int
    each: int
    prefix: int
    slots: int

    @property
    def rows(self) -> int:
        return self.images * self.each

    @classmethod
    def around(cls, images: int, each: int, prefix: int, own: int) -> BatchShape:
        """The smallest shape in use that holds a batch with ``own`` tokens a row at most."""
        # Few shapes: images rounded up to 1, 2, 4 or a multiple of 8, as every shape needs a capture of its
        # own. -(-a // b) rounds up.
        few = [size for size in (1, 2, 4) if images <= size]
        # Fused kernels want a mask's rows aligned: of the own tokens, or of all where both are one buffer.
        before = prefix if each == 1 else 0
        whole = -(-(before + own) // TOKENS_STEP) * TOKENS_STEP
        return cls(few[0] if few else -(-images // 8) * 8, each, prefix, whole - before)

    def values(self, heads: int, dim: int) -> tuple[int, int]:
        """How many numbers the prefixes and the rows' own tokens are, for one tensor of a layer."""
        return self.images * heads * self.prefix * dim, self.rows * heads * self.slots * dim


class StaticBatch:
    """Keys, values, tokens and mask of a batch: what the layers call ``past_key_values``.

    A row with an image of its own has prefix and own tokens in one buffer ``[rows, kv heads, all, dim]``: a
    fused kernel reads it. Where rows share an image, the prefix ``[images, kv heads, p, dim]`` is read once
    for all of them (``attention.attend``). ``said[:, slot]`` is the token whose keys go into ``slot``,
    ``logprobs`` and ``draws.numbers`` are its own.

    Args:
        memory: flat, at least ``layers * 2 * sum(shape.values(...))`` numbers; several shapes use it in turn.
    """

    def __init__(self, shape: BatchShape, memory: torch.Tensor, layers: int, heads: int, dim: int) -> None:
        self.shape = shape
        device, p, slots = memory.device, shape.prefix, shape.slots
        # How many numbers the prefixes (far) and the own tokens (near) take: keys and values of all layers.
        far, near = (2 * layers * count for count in shape.values(heads, dim))
        if shape.each == 1:
            self._all = memory[: far + near].view(layers, 2, shape.rows, heads, p + slots, dim)
            self._prefix, self._own = self._all[..., :p, :], self._all[..., p:, :]
        else:
            self._prefix = memory[:far].view(layers, 2, shape.images, heads, p, dim)
            self._own = memory[far : far + near].view(layers, 2, shape.rows, heads, slots, dim)
        # Added to the scores, 0 or -inf; of the own tokens alone where rows share a prefix.
        self._first = p if shape.each == 1 else 0
        self._mask = torch.zeros(shape.rows, 1, 1, self._first + slots, dtype=memory.dtype, device=device)
        self.said = torch.zeros(shape.rows, slots, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(shape.rows, slots, device=device)
        self.draws = Draws.empty(shape.rows, slots, device)
        self.positions = torch.zeros(shape.rows, 1, dtype=torch.long, device=device)
        # The slot is a number on the device, changed in place: a captured graph replays the same addresses
        # and must find the new value there.
        self._slot = torch.zeros(1, dtype=torch.long, device=device)
        self._reads = self._known = 0
        self._seen: torch.Tensor | None = None

    def begin(
        self,
        prefixes: Sequence[torch.Tensor],
        lengths: Sequence[int],
        draws: Draws | None = None,
        known: Sequence[Sequence[torch.Tensor]] = (),
    ) -> None:
        """Take prefixes ``[layers, 2, kv heads, p, dim]``, what is ``known`` of the rows after them, the
        lengths of what they read now, and their draws; reading is next.

        Known pieces ``[layers, 2, kv heads, tokens, dim]`` come first, in rows with fewer padded on
        the left. What stays of other batches is zeroed: behind a mask of -inf a number must still be finite.
        """
        shape, rows, self._reads = self.shape, len(lengths), max(lengths)
        known_lens = lengths_of(known) or [0] * rows
        self._known = max(known_lens)
        longest = self._known + self._reads
        for image, prefix in enumerate(prefixes):
            self._prefix[:, :, image].copy_(prefix)
        self._prefix[:, :, len(prefixes) :].zero_()
        self._own[:, :, rows:].zero_()
        self._own[..., longest:, :].zero_()
        self._own[..., : self._known, :].zero_()
        for row, pieces in enumerate(known):
            end = self._known
            for piece in reversed(pieces):
                start = end - piece.shape[3]
                self._own[:, :, row, :, start:end].copy_(piece)
                end = start
        padding = shape.rows - rows
        before, count = (
            torch.tensor([*given, *[max(given)] * padding]).to(self.said.device)[:, None]
            for given in (known_lens, lengths)
        )
        # All rows decode into the same slots, from `longest` on, whatever their own length; their positions
        # go on from that length. The slots between are masked, so the gap changes nothing.
        self.positions.copy_(shape.prefix + before + count)
        self._slot.fill_(longest)
        if draws is not None:
            # Rows that only pad draw nothing.
            for kept, new in zip(self.draws[:2], draws[:2], strict=True):
                kept.zero_()[:rows] = new
            self.draws.numbers[:rows, longest : longest + draws.numbers.shape[1]] = draws.numbers
        slots = torch.arange(shape.slots, device=count.device)
        unread = slots < self._known - before
        hidden = unread | (slots >= self._known + count)
        self._mask.zero_()
        self._mask[:, 0, 0, self._first :].masked_fill_(hidden, float("-inf"))
        padded = min(known_lens) < self._known
        self._seen = None
        if padded or shape.each > 1:
            # Query i of a row sees what is known of it, and what is read now up to itself.
            seen = (slots[:longest] <= self._known + slots[: self._reads, None])[None, None]
            if padded:
                seen = seen & ~unread[:rows, None, None, :longest]
            if shape.each == 1:
                seen = torch.cat([seen.new_ones(*seen.shape[:3], shape.prefix), seen], 3)
            self._seen = as_bias(seen, self._mask.dtype)

    def read(self, first: torch.Tensor, logprobs: torch.Tensor | None = None) -> None:
        """The rows' own tokens are read, and ``first [rows]`` said: decoding is next."""
        # `_reads` > 0 while prompts are read (tokens a row), 0 while decoding: `update` and `attend` go by
        # it.
        slot = self._known + self._reads
        self.said[: len(first), slot] = first
        if logprobs is not None:
            self.logprobs[: len(first), slot] = logprobs
        self._reads, self._seen = 0, None

    def step(
        self,
        advance: Callable[
            [torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]
        ],
    ) -> None:
        """One more token for every row: no shape and no value that the host must know.

        ``advance(ids, mask, positions)`` gives the next ids and their logprobs, ``[rows]`` each.
        """
        # `said[:, _slot]` is the newest token. This step writes its keys into that slot, so the slot is
        # opened first; the token that the step gives goes one slot on.
        self._mask.index_fill_(3, self._slot + self._first, 0.0)
        new, logprobs = advance(self.said.index_select(1, self._slot), self._mask, self.positions)
        self._slot += 1
        self.positions += 1
        self.said.index_copy_(1, self._slot, new[:, None])
        if logprobs is not None:
            self.logprobs.index_copy_(1, self._slot, logprobs[:, None])

    @property
    def number(self) -> torch.Tensor:
        """``[rows, 1]``: what the rows draw with for the token that the step under way gives."""
        return self.draws.numbers.index_select(1, self._slot + 1)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values where they belong."""
        for kept, new in zip(self._own[layer], (key, value), strict=True):
            if self._reads:
                kept[: len(new), :, self._known : self._known + self._reads] = new
            else:
                kept.index_copy_(2, self._slot, new)
        # Nobody reads these: `static_attention` takes keys and values from the buffers.
        return key, value

    def piece(self, row: int, tokens: slice) -> torch.Tensor:
        """A copy of a row's own keys and values, ``[layers, 2, kv heads, tokens, dim]``."""
        return self._own[:, :, row, :, tokens].clone()

    def attend(self, query: torch.Tensor, layer: int, scaling: float) -> torch.Tensor:
        """``[rows, heads, s, dim]`` -> ``[rows, s, heads, dim]`` over the prefix and the rows' own tokens."""
        attend = self._attend_reading if self._reads else self._attend_decoding
        return attend(query, layer, scaling)

    def _attend_reading(self, query: torch.Tensor, layer: int, scaling: float) -> torch.Tensor:
        rows, heads, s, _ = query.shape
        p, each, own_len = self.shape.prefix, self.shape.each, self._known + s
        # Keys and values: [2, rows, kv heads, own_len, dim], and the prefix [2, images, kv heads, p, dim].
        own = self._own[layer][:, :rows, :, :own_len]
        prefix = self._prefix[layer][:, : rows // each]
        seen = self._seen  # [rows or 1, 1, s, own_len], or over all tokens where both are one buffer
        if each > 1:
            assert seen is not None
            return attend(query, own[0], own[1], prefix[0], prefix[1], seen, scaling)
        keys, values = self._all[layer][:, :rows, :, : p + own_len]
        groups = heads // keys.shape[1]
        if groups > 1:
            keys, values = (t.repeat_interleave(groups, 1) for t in (keys, values))
        # Query i sees the prefix, what is known, and the own tokens up to i: no mask where no row is padded,
        # so that flash kernels take it. lower_right: `is_causal=True` would align query 0 with key 0 and hide
        # most of the prefix.
        bias: Any = causal_lower_right(s, p + own_len) if seen is None else seen
        return scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scaling).transpose(
            1, 2
        )

    def _attend_decoding(self, query: torch.Tensor, layer: int, scaling: float) -> torch.Tensor:
        rows, heads, _, dim = query.shape
        if self.shape.each > 1:
            own, prefix = self._own[layer], self._prefix[layer]
            return attend(query, own[0], own[1], prefix[0], prefix[1], self._mask, scaling)
        keys, values = self._all[layer]
        # The query heads of a kv head as so many queries of it: keys are not repeated.
        grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], dim)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=self._mask, scale=scaling)
        return out.reshape(rows, 1, heads, dim)


def static_attention(
    module: Any,
    query: torch.Tensor,
    _key: torch.Tensor,
    _value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    *,
    static: StaticBatch,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query [rows, heads, s, dim]`` over what ``static`` holds, its mask included."""
    return static.attend(query, module.layer_idx, scaling), None
