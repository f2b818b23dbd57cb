"""Which token comes next in each row of a batch, and how likely the model found it.

One piece for all ways of decoding. A row that samples has numbers of its own, one for each token it may say,
made from its seed before decoding begins: so its text depends neither on the other rows nor on the way of
decoding, and a captured step draws anew each time it is replayed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from viscot_core.engines.base import Sampling
from viscot_core.engines.transformers.decode_state import DecodeState


@dataclass(frozen=True, slots=True)
class Choice:
    """What a batch's steps compute beside the likeliest tokens.

    Attributes:
        logprobs: each chosen token's probability.
        samples: some rows draw.
        nucleus: some rows draw from the likeliest tokens only.
    """

    logprobs: bool = False
    samples: bool = False
    nucleus: bool = False

    @classmethod
    def of(cls, states: Sequence[DecodeState]) -> Choice:
        """What these rows want, all together."""
        drawing = [state.sampling for state in states if not state.sampling.greedy]
        return cls(
            logprobs=any(state.request.logprobs for state in states),
            samples=bool(drawing),
            nucleus=any(sampling.top_p < 1 for sampling in drawing),
        )


class Draws(NamedTuple):
    """How each row draws: ``temperature`` and ``top_p`` ``[rows, 1]``, ``numbers [rows, tokens]`` in 0..1."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    numbers: torch.Tensor

    @classmethod
    def of(cls, states: Sequence[DecodeState], device: torch.device) -> Draws:
        """Those of a batch's rows; a row's own numbers are the same in any batch."""
        numbers = torch.zeros(len(states), max(state.limit for state in states))
        for row, state in zip(numbers, states, strict=True):
            if not state.sampling.greedy:
                row[: state.limit] = uniform(state.sampling, state.limit)
        temperature = torch.tensor([[state.sampling.temperature] for state in states])
        # Beyond 1, no rounding of a sum reaches it.
        top_p = torch.tensor([[s.sampling.top_p if s.sampling.top_p < 1 else 2.0] for s in states])
        return cls(temperature.to(device), top_p.to(device), numbers.to(device))

    @classmethod
    def empty(cls, rows: int, tokens: int, device: torch.device) -> Draws:
        """Room for those of a batch, as a captured step reads them."""
        sizes = ((rows, 1), (rows, 1), (rows, tokens))
        return cls(*(torch.zeros(size, device=device) for size in sizes))


def uniform(sampling: Sampling, count: int) -> torch.Tensor:
    """``count`` numbers in 0..1 of a seed, on the CPU: the same for every device."""
    generator = torch.Generator().manual_seed(sampling.seed)
    # Below 1 also after rounding, so that the place below is always inside.
    return torch.rand(count, generator=generator).clamp_(max=1 - 1e-6)


def choose(
    logits: torch.Tensor,
    suppressed: torch.Tensor,
    choice: Choice,
    draws: Draws | None = None,
    number: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Each row's next id ``[rows]`` and its logprob ``[rows]``, of ``logits [rows, vocabulary]``.

    ``suppressed`` ids are never chosen (``logits`` are changed in place). ``number [rows, 1]`` is the rows'
    next one of ``draws``. A logprob is that of the model's own distribution, with all ids, at temperature 1.
    """
    # log_softmax makes a whole table to read one number a row, and is ten times as fast as logsumexp.
    table = logits.float().log_softmax(-1) if choice.logprobs else None
    logits.index_fill_(1, suppressed, float("-inf"))
    ids = logits.argmax(-1)
    if choice.samples:
        assert draws is not None and number is not None
        ids = torch.where(draws.temperature[:, 0] > 0, _drawn(logits, choice, draws, number), ids)
    return ids, None if table is None else table.gather(1, ids[:, None])[:, 0]


def _drawn(logits: torch.Tensor, choice: Choice, draws: Draws, number: torch.Tensor) -> torch.Tensor:
    """The id at which the probabilities, summed in the order of ids, reach ``number`` of their whole."""
    heat = torch.where(draws.temperature > 0, draws.temperature, 1.0)  # greedy rows: any number that divides
    shares = (logits.float() / heat).softmax(-1)
    if choice.nucleus:
        ordered, ids = shares.sort(-1, descending=True)
        # Outside are the ids before which the likelier ones make up `top_p` already; the first is inside.
        outside = ordered.cumsum(-1) - ordered >= draws.top_p
        shares = shares.masked_fill(outside.new_zeros(outside.shape).scatter(1, ids, outside), 0.0)
    sums = shares.cumsum(-1)
    # right=True: the first sum above the number, so that an id of no probability is not met.
    place = torch.searchsorted(sums, number * sums[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)
    # A GPU rounds each sum in an order of its own, so that one may be met all the same: then the likeliest.
    return torch.where(shares.gather(1, place) > 0, place, shares.argmax(-1, keepdim=True))[:, 0]


def tell_first(states: Sequence[DecodeState], logits: torch.Tensor) -> None:
    """Tell the rows that ask for them the likeliest of their first tokens; ``logits [rows, vocabulary]``."""
    for state, row in zip(states, logits, strict=True):
        if wanted := state.request.top_logprobs:
            likeliest = row.float().log_softmax(-1).topk(min(wanted, len(row)))
            state.on_first(likeliest.indices.tolist(), likeliest.values.tolist())


def tell(states: Sequence[DecodeState], ids: torch.Tensor, logprobs: torch.Tensor | None) -> None:
    """Each row's new tokens ``[rows, steps]``, step by step, with their logprobs."""
    unknown = itertools.repeat((None,) * len(states))
    numbers: Iterable[tuple[float | None, ...]]
    numbers = unknown if logprobs is None else zip(*logprobs.tolist(), strict=True)
    # strict=False: what is unknown goes on for ever.
    for tokens, column in zip(zip(*ids.tolist(), strict=True), numbers, strict=False):
        for state, token, logprob in zip(states, tokens, column, strict=True):
            state.on_token(token, logprob)
