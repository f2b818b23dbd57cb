"""vLLM over two processes (``--tensor-parallel 2``): the texts of one, and nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from viscot_core.data.synth import write_dataset
from viscot_core.engines.open import EngineOptions
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import read_predictions
from viscot_core.tasks.visual_cot.task import VisualCot

pytestmark = pytest.mark.slow

SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
ITEMS = 12
# Opens the engine, says so, and waits for its end.
WAITING = """
import sys, time
from viscot_core.engines.open import EngineOptions, open_engine
options = EngineOptions(
    engine="vllm", python=sys.argv[1], device="cpu", dtype="fp32", batch_size=4, tensor_parallel=2
)
engine = open_engine(options)
print("open", flush=True)
time.sleep(600)
"""


def test_two_ranks_say_what_the_local_engine_says(
    vllm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    write_dataset(tmp_path / "data", train=0, val=ITEMS, seed=5)
    task = VisualCot(tmp_path / "data", ("cot",))
    local = EngineOptions(device="cpu", dtype="fp32", batch_size=16)
    two = EngineOptions(
        engine="vllm", python=vllm_python, device="cpu", dtype="fp32", batch_size=16, tensor_parallel=2
    )
    said = []
    for options in (local, two):
        evaluate(task, options, tmp_path / options.engine)
        found = read_predictions(tmp_path / options.engine)
        assert not any(one.error for one in found)
        said.append({one.question_id: (one.answer, one.box_text) for one in found})
    assert said[0] == said[1] and len(said[0]) == ITEMS


def test_its_processes_end_with_a_viscot_that_was_killed(vllm_python: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING, vllm_python],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **SMALL},
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        started = psutil.Process(child.pid).children(recursive=True)
        ranks = [one for one in started if "TP" in " ".join([one.name(), *one.cmdline()])]
        assert len(ranks) == 2, [one.cmdline() for one in started]
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
