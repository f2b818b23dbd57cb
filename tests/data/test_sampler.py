"""The order of rows: whole batches of one bucket, every row at most once, the same for a seed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from viscot_core.data.sampler import bucketed_order


@given(st.lists(st.integers(0, 3), max_size=80), st.integers(1, 9), st.integers(0, 5))
def test_batches_are_of_one_bucket(buckets: list[int], batch: int, seed: int) -> None:
    order = bucketed_order(buckets, batch, seed)
    assert len(order) == len(set(order))
    assert len(order) == sum(buckets.count(b) // batch * batch for b in set(buckets))
    for start in range(0, len(order), batch):
        assert len({buckets[row] for row in order[start : start + batch]}) == 1
    assert order == bucketed_order(buckets, batch, seed)
