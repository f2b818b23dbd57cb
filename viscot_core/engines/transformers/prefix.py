"""Shared-prefix decoding: what comes before the questions about an image is read once.

Every prompt about an image begins with the same system text and the same image tokens. Their keys and values
are computed once per image and kept: for both turns of a chain, for all strategies, for all expressions about
the image. Prompts about one image run together and attend to the one copy (``attention.py``), so that sixteen
questions cost one image and sixteen short texts. Equal to the plain way token for token (in
float32; tests/engines/transformers/test_prefix.py).

A talk that goes on (``Request.follow_ups``) shows a crop after each look. What lies between the ends of two
of its images is kept as well, a piece an image, so that the next look computes its new crop and the words
since the last one, whatever stands before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, takewhile
from typing import Any

import torch

from viscot_core.engines.transformers.attention import (
    NAME,
    SuffixCache,
    as_bias,
    ends_when_read,
    joined_layers,
    prefix_attention,
    shared_attention,
)
from viscot_core.engines.transformers.batches import BatchBudget, Measured, by_image
from viscot_core.engines.transformers.choosing import Choice, Draws, choose, tell, tell_first
from viscot_core.engines.transformers.decode_state import DecodeState, Decoding
from viscot_core.engines.transformers.graphs import StaticDecoder
from viscot_core.engines.transformers.prefill import keys_and_values
from viscot_core.engines.transformers.work import Work
from viscot_core.families.inputs import PrefixInputs, Suffix
from viscot_core.images.view import View

KEPT_BYTES = 128 << 20
"""What is kept of images on a CPU at least; more for models whose weights are four times that."""
KEPT_SHARE = 0.25
"""What is kept on a GPU, of the memory that is free: the images of a batch (``batches.fitting_batch``)."""
PREFILL_IMAGES = 16
"""Prefixes computed at once: more do not make a device faster, and cost memory."""
KEYS_FIRST = 128
"""Tokens a row from which on all but the last are read for their keys only."""


class PrefixStore:
    """Keys and values by prefix, the least recently used dropped beyond ``max_bytes``.

    Those of an image are one tensor ``[layers, 2, kv heads, tokens, dim]``. ``computed`` and ``reused`` count
    such tensors, for the tests and the benchmark's report.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self.computed = 0
        self.reused = 0

    def get(self, key: Hashable) -> torch.Tensor | None:
        """What is kept of ``key``, now the most recently used."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.reused += 1
        return found

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def known(self, keys: Sequence[Hashable]) -> list[torch.Tensor]:
        """What is kept of a talk's ``keys``, up to the first of which nothing is."""
        found = list(takewhile(self._kept.__contains__, keys))
        # A piece is of use only with those before it: the last one is the first to be dropped.
        for key in reversed(found):
            self._kept.move_to_end(key)
        return [self._kept[key] for key in found]

    def put(self, key: Hashable, prefix: torch.Tensor) -> None:
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
        ends = self._inputs.image_ends(one.prompt)
        return bool(ends) and ends[0] < len(one.ids)

    def generate(self, prompts: Sequence[Decoding], budget: BatchBudget, work: Work) -> None:
        """Decode every prompt to its end; ``budget`` bounds a batch, ``work`` counts what is computed."""
        measured = []
        for one in prompts:
            ends = self._inputs.image_ends(one.prompt)
            read = len(self._known(one, ends))
            measured.append(Measured(one, ends[0], ends[read], len(ends) - 1 - read))
        batches = list(by_image(measured, budget))
        unread = {id(each.one): each.unread for each in measured}
        self._inputs.prefetch(view for groups in batches for view in self._to_encode(groups, unread))
        for groups in batches:
            self._run([one for group in groups for one in group], len(groups), work)

    def _to_encode(self, groups: Sequence[Sequence[Decoding]], unread: Mapping[int, int]) -> Iterator[View]:
        """A batch's images of which nothing is kept, in the order in which ``_run`` comes to them.

        ``unread`` of a prompt's images, by its ``id``, belong to no prefix and are not kept.
        """
        for first, *_ in groups:
            if _keys(first, self._inputs.image_ends(first.prompt)[:1])[0] not in self.store:
                yield first.prompt.images[0]
        for group in groups:
            for one in group:
                yield from one.prompt.images[len(one.prompt.images) - unread[id(one)] :]

    def _run(self, prompts: Sequence[Decoding], images: int, work: Work) -> None:
        """Decode prompts that stand image by image, the same number for each of ``images``."""
        ends = [self._inputs.image_ends(one.prompt) for one in prompts]
        prefix_len, computed = ends[0][0], self.store.computed
        # Asked anew: a batch before this one may have dropped pieces.
        known = [self._known(one, places) for one, places in zip(prompts, ends, strict=True)]
        # The first prompt of each image stands for the image.
        prefixes = self._prefixes(prompts[:: len(prompts) // images], prefix_len)
        work.add_prefixes(self.store.computed - computed, prefix_len)
        states = [one.state for one in prompts]
        read = [1 + len(pieces) for pieces in known]
        starts = [places[count - 1] for places, count in zip(ends, read, strict=True)]
        # Left-padded: the last column is every row's newest token. Static buffers want the right (static.py).
        suffix = self._inputs.suffix([one.prompt for one in prompts], read, left=self.static is None)
        if self.static is None:
            cache = SuffixCache(suffix.real.shape[1] + max(state.limit for state in states), known)
            self._grow(states, prefixes, suffix, cache)
            # All prompts end at the cache's last token that was read.
            shifts = [cache.known_len + suffix.real.shape[1] - len(one.ids) for one in prompts]
            self._keep(prompts, ends, known, cache.piece, shifts)
        else:
            lengths = [len(one.ids) - start for one, start in zip(prompts, starts, strict=True)]
            batch = self.static.run(states, prefixes, suffix.arguments["inputs_embeds"], lengths, known)
            # What was read now begins in one slot, behind all that was known.
            longest = max(starts) - prefix_len
            self._keep(prompts, ends, known, batch.piece, [longest - start for start in starts])
        work.add_prompts(prompts, starts)

    def _grow(
        self,
        states: Sequence[DecodeState],
        prefixes: Sequence[torch.Tensor],
        suffix: Suffix,
        cache: SuffixCache,
    ) -> None:
        """Decode rows with a cache that grows by a token a step.

        ``mask [rows, 1, n, all so far]`` hides what a token may not see of its row's own ones.
        """
        shared = joined_layers(prefixes)
        arguments, positions = suffix.arguments, suffix.positions
        rows, longest = suffix.real.shape
        real = torch.cat([cache.known_real(rows, suffix.real.device), suffix.real], 1)
        choice, said = Choice.of(states), 0
        draws = Draws.of(states, real.device) if choice.samples else None
        # Query i is the token `known_len + i` of its row: it sees those up to itself. Padding sees itself: of
        # a query that sees nothing, kernels make what they please.
        causal = real.new_ones(longest, real.shape[1]).tril(cache.known_len)
        itself = causal & ~causal.tril(cache.known_len - 1)
        dtype = prefixes[0].dtype
        mask = as_bias(causal & real[:, None, None, :] | itself, dtype)
        with shared_attention(self._text.config.get_text_config()):
            # Of many tokens (a crop's), nothing but keys and values is wanted before the last one. Embeddings
            # can be cut anywhere; other inputs belong to their images.
            if longest > KEYS_FIRST and self._inputs.embeds:
                before = {name: each[:, :-1] for name, each in arguments.items()}
                with cache.keys_only(layers=len(shared)), ends_when_read():
                    self._text(
                        **before,
                        attention_mask=mask[:, :, :-1, :-1],
                        position_ids=positions[..., :-1],
                        past_key_values=cache,
                        use_cache=True,
                        shared_prefix=shared,
                    )
                arguments = {name: each[:, -1:] for name, each in arguments.items()}
                positions, mask = positions[..., -1:], mask[:, :, -1:]
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
                mask = as_bias(real[:, None, None, :], dtype)

    def _known(self, one: Decoding, ends: Sequence[int]) -> list[torch.Tensor]:
        """What is kept of a prompt after its prefix, up to the ``ends`` of its images."""
        return self.store.known(_keys(one, ends))[1:]

    def _keep(
        self,
        prompts: Sequence[Decoding],
        ends: Sequence[Sequence[int]],
        known: Sequence[Sequence[torch.Tensor]],
        piece_of: Callable[[int, slice], torch.Tensor],
        shifts: Sequence[int],
    ) -> None:
        """Keep what was read now and the next look of each talk shows again: ``piece_of`` row and tokens,
        which lie ``shifts`` after their places in the prompts.
        """
        for row, (one, places, shift) in enumerate(zip(prompts, ends, shifts, strict=True)):
            if not one.state.request.follow_ups:
                continue
            keys = _keys(one, places)
            pieces = zip(keys[1:], pairwise(places), strict=False)
            # Not what was known: it lies before the row's padding, elsewhere than `shift` says, and may have
            # been dropped since.
            for key, (start, end) in islice(pieces, len(known[row]), None):
                if key not in self.store:
                    self.store.put(key, piece_of(row, slice(start + shift, end + shift)))
            self.store.known(keys)  # in the order in which they are to be dropped

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[rows, hidden]`` -> ``[rows, vocabulary]``."""
        logits: torch.Tensor = self._head(hidden)
        return logits

    def _prefixes(self, prompts: Sequence[Decoding], prefix_len: int) -> list[torch.Tensor]:
        """Keys and values of each prompt's prefix, computed where they are not kept."""
        keys = [_key(one, 1, prefix_len) for one in prompts]
        found = {key: prefix for key in keys if (prefix := self.store.get(key)) is not None}
        # Each prefix once, however many prompts of the batch want it.
        missing = list({k: one for k, one in zip(keys, prompts, strict=True) if k not in found}.items())
        for start in range(0, len(missing), PREFILL_IMAGES):
            some = missing[start : start + PREFILL_IMAGES]
            arguments = self._inputs.prefix([one.prompt for _, one in some], prefix_len)
            for (key, _), kept in zip(some, keys_and_values(self._text, arguments), strict=True):
                # Kept in `found` as well: the store may drop it again before this batch has run.
                found[key] = kept
                self.store.put(key, kept)
        return [found[key] for key in keys]


def _key(one: Decoding, images: int, end: int) -> Hashable:
    """What is kept up to the end of a prompt's image, which is its ``end``-th token."""
    # The ids are part of the key: other words before the same images give other keys and values.
    return (*(view.key for view in one.prompt.images[:images]), *one.ids[:end])


def _keys(one: Decoding, ends: Sequence[int]) -> list[Hashable]:
    """Of a prompt's prefix and of the pieces up to its other images' ends; no image is its last token."""
    return [_key(one, count, end) for count, end in enumerate(ends, 1) if end < len(one.ids)]


def uses_static(device: str, inputs: PrefixInputs) -> bool:
    """Whether decoding goes through static buffers: on a GPU, for inputs that are embeddings alone."""
    return device == "cuda" and inputs.embeds


def _budget(model: Any) -> int:
    """How many bytes of keys and values to keep."""
    if model.device.type != "cuda":
        return max(KEPT_BYTES, sum(weights.nbytes for weights in model.parameters()) // 4)
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free * KEPT_SHARE)
