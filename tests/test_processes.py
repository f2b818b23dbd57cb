"""Children that end when their parent is killed: bench ranks, pools, lmms-eval's child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from viscot_core.processes import parent_of

POOL = """
import time
from pathlib import Path
from viscot_core.processes import worker_pool
with worker_pool(2) as pool:
    list(pool.map(time.sleep, [60, 60]))
"""
CHILD = """
import sys
from pathlib import Path
from viscot_core.lmms_eval.launch import run_child
run_child([sys.executable, "-c", "import time; time.sleep(60)"], Path(sys.argv[1]), {})
"""
LATE = """
import os, subprocess, sys
from viscot_core.processes import die_with_parent
die_with_parent(1 << 22)
print("alive")
"""


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def wait_until(true: object, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("code", "count"), [(POOL, 2), (CHILD, 1)], ids=["pool", "lmms-eval"])
def test_children_end_with_their_parent(tmp_path: Path, code: str, count: int, by: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    assert wait_until(lambda: len(children(parent.pid)) == count)
    time.sleep(0.2)  # a worker asks the kernel as its first act
    found = children(parent.pid)
    assert [parent_of(child) for child in found] == [parent.pid] * count
    parent.send_signal(by)
    assert parent.wait() == -by
    assert wait_until(lambda: not any(map(alive, found))), "a child outlived its parent"


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_child_whose_parent_died_before_it_could_ask_ends() -> None:
    ran = subprocess.run([sys.executable, "-c", LATE], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert parent_of(os.getpid()) == os.getppid() and parent_of(1 << 22) is None
