"""Every setting that a recipe may combine trains: adapters or all weights, ZeRO, precision, processes."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
from made_job import job, losses

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
MODES = [
    "-".join(["tune", *words])
    for words in product(("lora", "full"), ("bf16", "fp32"), ("whole", "frozen"), ("zero0", "zero2", "zero3"))
]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_combination_trains_three_steps(
    processes: int, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one group of processes. Losses are alike; adapters under ZeRO-3 start from other values."""
    monkeypatch.setenv("VISCOT_TEST_GOLDEN", str(shared / "golden"))
    monkeypatch.setenv("VISCOT_TEST_STEPS", "3")
    job(processes, tmp_path, tmp_path, MODES, launched=True)
    found = {mode: losses(tmp_path / mode, "finetune") for mode in MODES}
    for mode, values in found.items():
        assert len(values) == 3 and all(map(math.isfinite, values)), mode
        alike = found[f"{mode.rpartition('-')[0]}-zero0"]
        assert values == pytest.approx(alike, abs=1e-3 if "full-fp32" in mode else 5e-2), mode
