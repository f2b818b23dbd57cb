"""Processes of a job end without Python's shutdown, which a thread of gloo can turn into a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

JOB = """
import atexit, ctypes, os
if os.environ["RANK"] == "1":
    # The last of all at an exit. It keeps Python's lock while the other rank's part arrives, and Python shuts
    # down as soon as it returns.
    atexit.register(ctypes.PyDLL(None).usleep, 3_000_000)
import sys, time
import torch
from torch import distributed
from viscot_core.train import ranks

ranks.join()
group = distributed.new_group()

def send():
    # Only the work holds the tensor; the thread that ends the work releases it, which needs Python's lock.
    distributed.all_reduce(torch.ones(3), group=group, async_op=True)

distributed.barrier()
if ranks.rank() == 1:
    send()
else:
    time.sleep(1.5)
    send()
    time.sleep(2.5)
print("rank", ranks.rank(), "is done")
if "leave" in sys.argv:
    ranks.leave()
"""


def run_job(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "job.py").write_text(JOB)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, *launcher, str(folder / "job.py"), *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_process_that_leaves_does_not_crash_over_what_still_arrives(tmp_path: Path) -> None:
    done = run_job(tmp_path, "leave")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"rank 0 is done", "rank 1 is done"} <= set(done.stdout.splitlines())


def test_a_process_that_does_not_leave_shows_the_crash(tmp_path: Path) -> None:
    """Where this no longer fails, torch has mended it, and `leave` may end as other functions do."""
    # A machine that is busy for seconds may miss the moment.
    seen = (run_job(tmp_path).stderr for _ in range(4))
    assert any("terminate called" in words for words in seen), "torch ends properly now"
