"""The order of rows: whole batches of one bucket, every row at most once, the same for a seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.data.annotations import Conversation
from viscot_core.data.search.rows import training_rows
from viscot_core.data.search.scenes import make_search_scene
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.zoo import BUNDLED_FOLDER
from viscot_core.train.tiny import chains
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


def test_many_rows_are_encoded_by_several_processes_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(BUNDLED_FOLDER)
    processor = checkpoint.family.processor(checkpoint)
    scenes = [make_search_scene(seed) for seed in range(4)]
    rows = [Conversation.model_validate(row) for row in training_rows(scenes)]
    alone = chains._encoded(rows, processor, 512)
    monkeypatch.setattr(chains, "FEW_ROWS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert chains._encoded(rows, processor, 512) == alone
    assert len(alone) == len(rows)
