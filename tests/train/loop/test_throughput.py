"""The log's figures."""

from __future__ import annotations

from viscot_core.train.loop.throughput import Meter


def test_throughput_counts_real_tokens() -> None:
    meter = Meter(8, 2, flops_per_token=1e12, gpu="NVIDIA H100 80GB")
    meter.start(0)
    meter.add(950, 1000, 0)
    found = meter.read(1)
    assert found["non_padding"] == 0.95
    assert {"samples_per_second", "tokens_per_second", "mfu"} <= found.keys()
    assert "bad_rows" not in found
