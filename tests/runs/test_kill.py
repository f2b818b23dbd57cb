"""``kill -9`` at random moments: nothing finished is lost, nothing is written twice, all ends equal."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from made_bench import write_root

from viscot_core.runs.records import PREDICTIONS_FILE, Prediction, read_predictions, read_run
from viscot_core.tasks.visual_cot.strategies import STRATEGIES

pytestmark = pytest.mark.slow

KILLS = 20
QUESTIONS, IMAGES = 900, 300
BENCH = """
import os, sys, time
from functools import partial
from pathlib import Path
from made_bench import FakeEngine, speak
from viscot_core.runs.answering import answer_queries, answer_stream
from viscot_core.runs.loop import Built, RunPlan, run
from viscot_core.tasks.visual_cot.strategies import STRATEGIES
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot

def slowly(prompt):
    time.sleep(0.0005)
    return speak(prompt)

FakeEngine().prompt(())  # loads what the first prompt of a process loads
for line in sys.stdin:
    if not (process := os.fork()):
        break
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
else:
    sys.exit()
way, _, out = line.strip().partition(" ")
root, out, engine = Path(sys.argv[1]), Path(out), FakeEngine(slowly)
ask = partial(answer_queries, VisualCot, {}, engine)
stream = partial(answer_stream, VisualCot, {}, engine, width=9) if way == "stream" else None
# `full` would spend the time on enlarging images.
names = tuple(name for name in STRATEGIES if name != "full")
plan = RunPlan(out, "cot", load_visual_cot(root), names, {"seed": 0}, "fake", root, batch=3)
run(plan, lambda: Built(ask, {}, stream=stream))
"""


class Benches:
    """Starts a process for each run; they share their imports, which would take most of the time."""

    def __init__(self, root: Path) -> None:
        tests = str(Path(__file__).resolve().parent.parent / "support")
        command, environment = [sys.executable, "-c", BENCH, str(root)], {**os.environ, "PYTHONPATH": tests}
        pipe = subprocess.PIPE
        self._forks = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self._forks.stdin is not None and self._forks.stdout is not None
        self._ask, self._told = self._forks.stdin, self._forks.stdout

    def __enter__(self) -> Benches:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ask.close()
        self._forks.wait()
        self._told.close()

    def start(self, out: Path, way: Literal["ask", "stream"] = "ask") -> int:
        """The id of a process that does what is left of the run ``out``, in batches or in a stream."""
        print(way, out, file=self._ask, flush=True)
        return int(self._told.readline())

    def end(self) -> int:
        """Wait for the process that was started last; its exit status (0: it came to its end)."""
        return int(self._told.readline())


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def as_table(folder: Path) -> dict[tuple[str, str, str], Any]:
    """What was answered, without how long it took."""
    return {p.key: timeless(p.model_dump()) for p in read_predictions(folder)}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name != "seconds"}
    return [timeless(each) for each in value] if isinstance(value, list | tuple) else value


def test_twenty_kills_leave_the_same_predictions(tmp_path: Path) -> None:
    root = write_root(tmp_path / "data", count=QUESTIONS, images=IMAGES)
    whole, out = tmp_path / "whole", tmp_path / "out"
    with Benches(root) as benches:
        benches.start(whole)
        assert benches.end() == 0
        kills, grown = kill_often(benches, out)
        assert kills == KILLS, "the run ended before it was killed often enough: give it more questions"
        assert grown > 3
        benches.start(out)
        assert benches.end() == 0
    assert as_table(out) == as_table(whole)
    done = QUESTIONS * (len(STRATEGIES) - 1)
    assert read_run(out).counts == {"done": done, "failed": 0, "missing": 0, "pending": 0}
    lines = [
        Prediction.model_validate_json(line) for line in (out / PREDICTIONS_FILE).read_bytes().splitlines()
    ]
    assert len(lines) == len({p.key for p in lines}), "no item was written twice"


def kill_often(benches: Benches, out: Path) -> tuple[int, int]:
    """How often the run was started and killed, and how often it had written something by then."""
    rng = random.Random(7)
    kills, grown = 0, 0
    file = out / PREDICTIONS_FILE
    while kills < KILLS:
        before = file.stat().st_size if file.exists() else 0
        process = benches.start(out, "stream" if kills % 2 else "ask")
        deadline = time.monotonic() + 60
        # Most kills wait for the first new line, so that they fall into the writing.
        into_writing = rng.random() < 0.75
        while into_writing and time.monotonic() < deadline and is_there(process):
            if file.exists() and file.stat().st_size > before:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        if benches.end() == 0:
            break
        kills += 1
        grown += file.exists() and file.stat().st_size > before
    return kills, grown
