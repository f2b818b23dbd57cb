"""In which order rows are read: deterministic by seed, resumable by position."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def bucketed_order(buckets: Sequence[Hashable], batch_size: int, seed: int) -> list[int]:
    """Row indices such that every ``batch_size`` neighbours share a bucket (same pictures, same padded
    length).

    Each epoch's rest of a bucket that fills no batch is left out; another seed leaves out others.
    """
    rng = random.Random(seed)
    members: dict[Hashable, list[int]] = defaultdict(list)
    order = list(range(len(buckets)))
    rng.shuffle(order)
    for row in order:
        members[buckets[row]].append(row)
    batches = [
        rows[start : start + batch_size]
        for rows in members.values()
        for start in range(0, len(rows) - batch_size + 1, batch_size)
    ]
    rng.shuffle(batches)
    return [row for batch in batches for row in batch]


def length_order(
    lengths: Sequence[int], batch_size: int, chunks: int, generator: torch.Generator | None = None
) -> list[int]:
    """Row indices grouped by length, as LLaVA-1.5 groups them.

    Rows are shuffled and cut into groups of ``batch_size * chunks`` (one optimizer step); within a group they
    are dealt, longest first, to ``chunks`` equally full batches. Equal to the reference's for the same torch
    seed.
    """
    import torch

    order = torch.randperm(len(lengths), generator=generator).numpy()
    sizes, group = np.asarray(lengths), batch_size * chunks
    out: list[int] = []
    for start in range(0, len(order), group):
        rows = order[start : start + group]
        longest_first = rows[np.argsort(-sizes[rows], kind="stable")].tolist()
        for batch in even_chunks(longest_first, sizes, chunks):
            out += batch
    return out


def modality_length_order(
    lengths: Sequence[int], batch_size: int, chunks: int, generator: torch.Generator | None = None
) -> list[int]:
    """`length_order` of the rows with pictures (positive lengths) and of those without (negative) apart.

    The two kinds' groups are shuffled together. Their two last ones are joined: a whole group comes first,
    what is left of it last. The inner shuffles draw from torch's global generator and only the last one from
    ``generator``, as in the reference; unlike there, data of one kind alone is grouped too.
    """
    import torch

    if 0 in lengths:
        raise ValueError("a row of length 0 is neither with nor without pictures")
    seen = [i for i, length in enumerate(lengths) if length > 0]
    read = [i for i, length in enumerate(lengths) if length < 0]
    if not seen or not read:
        return length_order([abs(length) for length in lengths], batch_size, chunks, generator)
    group = batch_size * chunks
    groups: list[list[int]] = []
    rest: list[int] = []
    for kind in (seen, read):
        inner = length_order([abs(lengths[i]) for i in kind], batch_size, chunks)
        cut = [[kind[i] for i in inner[at : at + group]] for at in range(0, len(inner), group)]
        rest += cut.pop()
        groups += cut
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    first = group if len(rest) >= group else 0
    return rest[:first] + [row for g in shuffled for row in groups[g]] + rest[first:]


def even_chunks(
    rows: Sequence[int], lengths: Sequence[int] | NDArray[np.int64], chunks: int
) -> list[list[int]]:
    """``rows`` dealt to ``chunks`` lists of one size, each to the shortest list that is not full."""
    if len(rows) % chunks:
        return [list(rows[start::chunks]) for start in range(chunks)]
    size = len(rows) // chunks
    dealt: list[list[int]] = [[] for _ in range(chunks)]
    totals = [0.0] * chunks
    for row in rows:
        target = totals.index(min(totals))
        dealt[target].append(row)
        totals[target] = totals[target] + float(lengths[row]) if len(dealt[target]) < size else float("inf")
    return dealt


def filled(order: Sequence[int], group: int) -> list[int]:
    """``order`` with its last group of ``group`` rows filled up from its start: every step is a whole
    batch.
    """
    missing = -len(order) % group
    return [*order, *(order[i % len(order)] for i in range(missing))]
