"""The log's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from viscot_core.train.loop.throughput import Meter, StageLog


def test_throughput_counts_real_tokens() -> None:
    meter = Meter(8, 2, flops_per_token=1e12, gpu="NVIDIA H100 80GB")
    meter.start(0)
    meter.add(950, 1000, 0)
    found = meter.read(1)
    assert found["non_padding"] == 0.95
    assert {"samples_per_second", "tokens_per_second", "mfu"} <= found.keys()
    assert "bad_rows" not in found


def test_after_resuming_only_the_new_steps_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that resumed at step 40 on another number of processes logged 100.6 samples/s; 23 were true.

    Two steps of the whole job's 46 samples in 4 s, whatever the checkpoint's state says of its batch.
    """
    clock = iter((0.0, 100.0, 100.0))
    monkeypatch.setattr("viscot_core.train.loop.throughput.time.monotonic", lambda: next(clock, 104.0))
    meter = Meter(46, 1)
    log = StageLog(tmp_path / "log.jsonl", meter)
    args, control = TrainingArguments(str(tmp_path)), TrainerControl()
    state = TrainerState(global_step=40, max_steps=60, train_batch_size=8)
    log.on_train_begin(args, state, control)
    state.global_step = 42
    log.on_log(args, state, control, logs={"loss": 1.0})
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["step"] == 42 and line["samples_per_second"] == 23.0
