"""The order of rows: whole batches of one bucket, every row at most once, the same for a seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.train.tiny.own_data import bucketed_order


@given(st.lists(st.integers(0, 3), max_size=80), st.integers(1, 9), st.integers(0, 5))
def test_batches_are_of_one_bucket(buckets: list[int], batch: int, seed: int) -> None:
    order = bucketed_order(buckets, batch, seed).tolist()
    full = sum(buckets.count(b) // batch * batch for b in set(buckets))
    if full:
        assert len(order) == len(set(order)) == full
    for start in range(0, len(order), batch):
        assert len({buckets[row] for row in order[start : start + batch]}) == 1
    assert order == bucketed_order(buckets, batch, seed).tolist()


def test_few_rows_are_repeated_to_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    """Where no bucket fills a batch, every row is still learned from, as the plan's warning says."""
    order = bucketed_order([1, 1, 1, 2, 2], 4, 0)
    assert len(order) == 8 and set(order.tolist()) == set(range(5))
    assert "no 4 of 5 rows make a batch: rows are repeated" in caplog.text
    assert len(bucketed_order([], 4, 0)) == 0
