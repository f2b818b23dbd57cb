"""In which order rows are read: deterministic by seed, resumable by position."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence


def bucketed_order(buckets: Sequence[Hashable], batch_size: int, seed: int) -> list[int]:
    """Row indices such that every ``batch_size`` neighbours share a bucket (same pictures, same padded length).

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
