"""``kill -9`` at random moments: nothing finished is lost, nothing is written twice, all ends equal."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from made_bench import write_root

from viscot_core.runs.records import PREDICTIONS_FILE, Prediction, read_predictions, read_run
from viscot_core.tasks.visual_cot.strategies import STRATEGIES

pytestmark = pytest.mark.slow

KILLS = 20
BENCH = """
import sys, time
from functools import partial
from pathlib import Path
from made_bench import FakeEngine, speak
from viscot_core.runs.answering import answer_queries
from viscot_core.runs.loop import Built, RunPlan, run
from viscot_core.tasks.visual_cot.strategies import STRATEGIES
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot

def slowly(prompt):
    time.sleep(0.0005)
    return speak(prompt)

root, out = map(Path, sys.argv[1:])
plan = RunPlan(out, "cot", load_visual_cot(root), tuple(STRATEGIES), {"seed": 0}, "fake", root, batch=3)
run(plan, lambda: Built(partial(answer_queries, VisualCot, {}, FakeEngine(slowly)), {}))
"""


def start(root: Path, out: Path) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).resolve().parent.parent / "support")
    environment = {**os.environ, "PYTHONPATH": tests}
    return subprocess.Popen([sys.executable, "-c", BENCH, str(root), str(out)], env=environment)


def as_table(folder: Path) -> dict[tuple[str, str, str], Any]:
    """What was answered, without how long it took."""
    return {p.key: timeless(p.model_dump()) for p in read_predictions(folder)}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name != "seconds"}
    return [timeless(each) for each in value] if isinstance(value, list | tuple) else value


def test_twenty_kills_leave_the_same_predictions(tmp_path: Path) -> None:
    root = write_root(tmp_path / "data", count=900, images=300)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start(root, whole).wait() == 0
    rng = random.Random(7)
    kills, grown = 0, 0
    file = out / PREDICTIONS_FILE
    while kills < KILLS:
        process = start(root, out)
        before = file.stat().st_size if file.exists() else 0
        deadline = time.monotonic() + 60
        # Most kills wait for the first new line, so that they fall into the writing.
        into_writing = rng.random() < 0.75
        while into_writing and time.monotonic() < deadline and process.poll() is None:
            if file.exists() and file.stat().st_size > before:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        grown += file.exists() and file.stat().st_size > before
    assert kills == KILLS, "the run ended before it was killed often enough: give it more questions"
    assert grown > 3
    assert start(root, out).wait() == 0
    assert as_table(out) == as_table(whole)
    assert read_run(out).counts == {"done": 900 * len(STRATEGIES), "failed": 0, "missing": 0, "pending": 0}
    lines = [Prediction.model_validate_json(line) for line in file.read_bytes().splitlines()]
    assert len(lines) == len({p.key for p in lines}), "no item was written twice"
