"""Decoding with static buffers: on a GPU each shape's step is captured as a CUDA graph and replayed.

The host reads tokens back every ``READ_EVERY`` steps; a row that ended in between says a few tokens that
nobody hears. The texts are those of the growing way (tests/engines/transformers/test_graphs.py).
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from viscot_core.engines.transformers.attention import lengths_of, shared_attention
from viscot_core.engines.transformers.choosing import Choice, Draws, choose, tell, tell_first
from viscot_core.engines.transformers.decode_state import DecodeState
from viscot_core.engines.transformers.static import STATIC_NAME, BatchShape, StaticBatch, static_attention

READ_EVERY = 8
"""Steps between two looks at the tokens, where nobody has to see each as it comes."""
KEPT_SHAPES = 6
"""Shapes whose buffers and graphs are kept; they share one memory."""
WORTH_CAPTURING = 3
"""A capture costs about as much as so many steps without it."""


class StaticDecoder:
    """Decodes batches in static buffers.

    Args:
        text: the text model.
        embed: ids ``[rows, n]`` -> embeddings.
        head: hidden states ``[rows, hidden]`` -> logits ``[rows, vocabulary]``.
        suppressed: ids that are never said.
        graphs: capture the steps (CUDA only); switched off with a warning if that fails.
    """

    def __init__(
        self,
        text: Any,
        embed: Callable[[torch.Tensor], torch.Tensor],
        head: Callable[[torch.Tensor], torch.Tensor],
        suppressed: torch.Tensor,
        *,
        graphs: bool,
    ) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(STATIC_NAME, static_attention)
        self._text = text
        self._embed = embed
        self._head = head
        self._suppressed = suppressed
        self.graphs = graphs
        self.read_every = READ_EVERY
        self._memory: torch.Tensor | None = None
        self._batches: OrderedDict[BatchShape, StaticBatch] = OrderedDict()
        # What a step computes beside the likeliest tokens is part of what was captured.
        self._captured: dict[tuple[BatchShape, Choice], Any] = {}
        self._pool: Any = None

    def run(
        self,
        states: Sequence[DecodeState],
        prefixes: Sequence[torch.Tensor],
        embeddings: torch.Tensor,
        lengths: Sequence[int],
        known: Sequence[Sequence[torch.Tensor]] = (),
    ) -> StaticBatch:
        """Decode rows to their ends; they stand image by image, the same number for each of ``prefixes``.

        ``embeddings [rows, n, hidden]`` are the rows' own tokens, right-padded; ``lengths`` says how many.
        ``known`` are the pieces between prefix and own tokens that were read before (``StaticBatch.begin``).
        Returns the buffers, which hold what was read until the next run.
        """
        rows, new_len, _ = embeddings.shape
        known_lens = lengths_of(known) or [0] * rows
        longest, most = max(known_lens) + new_len, max(state.limit for state in states)
        prefix_len = prefixes[0].shape[3]
        shape = BatchShape.around(len(prefixes), rows // len(prefixes), prefix_len, longest + most)
        batch, choice = self._batch(shape, prefixes[0]), Choice.of(states)
        with shared_attention(self._text.config, STATIC_NAME):
            draws = Draws.of(states, embeddings.device) if choice.samples else None
            batch.begin(prefixes, lengths, draws, known)
            starts = prefix_len + torch.tensor(known_lens).to(embeddings.device)[:, None]
            positions = starts + torch.arange(new_len, device=embeddings.device)
            # [rows, n, hidden]; what the padding computes is never read.
            hidden = self._forward(batch, embeddings, _no_mask(embeddings), positions)
            ends = torch.tensor(lengths).to(hidden.device) - 1
            logits = self._head(hidden[torch.arange(rows, device=ends.device), ends])
            tell_first(states, logits)
            number = None if draws is None else draws.numbers[:, :1]
            batch.read(*choose(logits, self._suppressed, choice, draws, number))
            del hidden, logits
            every = 1 if any(state.watched for state in states) else self.read_every
            # The first token is there after the reading; then the host looks every `every` steps.
            said, wanted = 0, 1
            while wanted:
                new = slice(longest + said, longest + said + wanted)
                tell(states, batch.said[:rows, new], batch.logprobs[:rows, new] if choice.logprobs else None)
                said += wanted
                wanted = min(every, most - said) if any(state.open for state in states) else 0
                for _ in range(wanted):
                    self._advance(batch, choice, worth=most - said > WORTH_CAPTURING)
        return batch

    def clear(self) -> None:
        """Free buffers and graphs."""
        self._captured.clear()
        self._batches.clear()
        self._memory = self._pool = None

    def _forward(
        self, batch: StaticBatch, embeddings: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        hidden: torch.Tensor = self._text(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=batch,
            use_cache=True,
            static=batch,
        ).last_hidden_state
        return hidden

    def _step(self, batch: StaticBatch, choice: Choice) -> None:
        def advance(
            ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            logits = self._head(self._forward(batch, self._embed(ids), mask, positions)[:, -1])
            number = batch.number if choice.samples else None
            return choose(logits, self._suppressed, choice, batch.draws, number)

        batch.step(advance)

    def _advance(self, batch: StaticBatch, choice: Choice, *, worth: bool) -> None:
        """One step: replayed; or run, and captured for the next time."""
        graph = self._captured.get((batch.shape, choice))
        if graph is not None:
            graph.replay()
            return
        self._step(batch, choice)  # the warm-up that a capture wants is a step of its own right
        if self.graphs and worth:
            self._capture(batch, choice)

    def _capture(self, batch: StaticBatch, choice: Choice) -> None:
        # Kernels are recorded here and do not run: slot and tokens stay as the step before left them.
        graph = torch.cuda.CUDAGraph()
        # One pool for all graphs: one replays at a time, and what a step leaves is in the batch's buffers.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            # thread_local: by default, an allocation in another thread breaks a capture.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._step(batch, choice)
        # A RuntimeError too, but no failed capture: the engine tries a smaller batch.
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a kernel that cannot be captured: the same steps, one by one
            self.graphs = False
            warnings.warn(f"Decoding runs without CUDA graphs: {error}", RuntimeWarning, stacklevel=2)
            return
        self._captured[batch.shape, choice] = graph

    def _batch(self, shape: BatchShape, prefix: torch.Tensor) -> StaticBatch:
        """The buffers of a shape, in the memory that all shapes use in turn."""
        found = self._batches.get(shape)
        if found is not None:
            self._batches.move_to_end(shape)
            return found
        layers, _, heads, _, dim = prefix.shape
        wanted = 2 * layers * sum(shape.values(heads, dim))
        if self._memory is None or self._memory.numel() < wanted:
            self.clear()  # graphs know the old addresses
            if prefix.is_cuda:
                torch.cuda.empty_cache()
            self._memory = prefix.new_zeros(wanted)
        while len(self._batches) >= KEPT_SHAPES:
            dropped, _ = self._batches.popitem(last=False)
            for known in [key for key in self._captured if key[0] == dropped]:
                del self._captured[known]
        batch = self._batches[shape] = StaticBatch(shape, self._memory, layers, heads, dim)
        return batch


def _no_mask(like: torch.Tensor) -> torch.Tensor:
    """A mask that nobody reads: with one of four dimensions transformers makes none."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=like.device)
