"""In which order rows are read: deterministic by seed, resumable by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def length_order(
    lengths: Sequence[int] | NDArray[np.int64],
    batch_size: int,
    chunks: int,
    generator: torch.Generator | None = None,
) -> NDArray[np.int64]:
    """Row numbers grouped by length, ``int64[len]``, as LLaVA-1.5 groups them.

    Rows are shuffled and cut into groups of ``batch_size * chunks`` (one optimizer step); within a group they
    are dealt, longest first, to ``chunks`` equally full batches. Equal to the reference's for the same torch
    seed; all groups are dealt at once, because 2.4 million rows are ordered on every rank.
    """
    import torch

    sizes, group = np.asarray(lengths), batch_size * chunks
    order = torch.randperm(len(sizes), generator=generator).numpy()
    # [groups, batch_size * chunks]; the rows that fill no group are dealt apart, by the same rule.
    whole = len(order) // group * group
    groups = _longest_first(order[:whole].reshape(-1, group), sizes)
    last = _longest_first(order[None, whole:], sizes)[0]
    rest = [row for batch in even_chunks(last.tolist(), sizes, chunks) for row in batch]
    return np.concatenate([_dealt(groups, sizes, chunks).ravel(), np.array(rest, np.int64)])


def modality_length_order(
    lengths: Sequence[int] | NDArray[np.int64],
    batch_size: int,
    chunks: int,
    generator: torch.Generator | None = None,
) -> NDArray[np.int64]:
    """`length_order` of the rows with images (positive lengths) and of those without (negative) apart.

    The two kinds' groups are shuffled together. Their two last ones are joined: a whole group comes first,
    what is left of it last. The inner shuffles draw from torch's global generator and only the last one from
    ``generator``, as in the reference; unlike there, data of one kind alone is grouped too.
    """
    import torch

    signed = np.asarray(lengths)
    if (signed == 0).any():
        raise ValueError("a row of length 0 is neither with nor without images")
    kinds = [np.flatnonzero(signed > 0), np.flatnonzero(signed < 0)]
    sizes = np.abs(signed)
    if not all(map(len, kinds)):
        return length_order(sizes, batch_size, chunks, generator)
    group = batch_size * chunks
    ordered = [rows[length_order(sizes[rows], batch_size, chunks)] for rows in kinds]
    ends = [(len(rows) - 1) // group * group for rows in kinds]  # the last group, also a whole one, is rest
    groups = np.concatenate([rows[:end] for rows, end in zip(ordered, ends, strict=True)]).reshape(-1, group)
    rest = np.concatenate([rows[end:] for rows, end in zip(ordered, ends, strict=True)])
    shuffled = groups[torch.randperm(len(groups), generator=generator).numpy()]
    first = group if len(rest) >= group else 0
    return np.concatenate([rest[:first], shuffled.ravel(), rest[first:]])


def even_chunks(
    rows: Sequence[int], lengths: Sequence[int] | NDArray[np.int64], chunks: int
) -> list[list[int]]:
    """``rows`` dealt to ``chunks`` lists of one size, each to the shortest list that is not full."""
    # As in the reference: what does not divide evenly is dealt in turn, whatever the lengths.
    if len(rows) % chunks:
        return [list(rows[start::chunks]) for start in range(chunks)]
    dealt: list[list[int]] = _dealt(np.array([rows], np.int64), np.asarray(lengths), chunks)[0].tolist()
    return dealt


def _longest_first(groups: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every row of ``groups [G, N]`` sorted by falling size; equals keep their order."""
    return np.take_along_axis(groups, np.argsort(-sizes[groups], axis=1, kind="stable"), 1)


def _dealt(groups: NDArray[np.int64], sizes: NDArray[np.int64], chunks: int) -> NDArray[np.int64]:
    """Every group of ``groups [G, N]`` dealt to equally many chunks: ``[G, chunks, N // chunks]``."""
    every, full = np.arange(len(groups)), groups.shape[1] // chunks
    dealt = np.empty((len(groups), chunks, full), np.int64)
    # [G, chunks]: how many rows each chunk holds, and the sum of their lengths.
    held = np.zeros((len(groups), chunks), np.int64)
    totals = np.zeros((len(groups), chunks))
    for rows in groups.T:  # the next row of all groups at once
        # The first of equal sums, as the reference's ``index(min(...))``: row orders depend on it.
        target = totals.argmin(1)
        dealt[every, target, held[every, target]] = rows
        held[every, target] += 1
        totals[every, target] += sizes[rows]
        # A full chunk is never the shortest again.
        totals[held == full] = np.inf
    return dealt


def filled(order: Sequence[int] | NDArray[np.int64], group: int) -> NDArray[np.int64]:
    """``order`` with its last group of ``group`` rows filled up from its start: every step is a whole
    batch.
    """
    return np.resize(np.asarray(order, np.int64), -(-len(order) // group) * group)
