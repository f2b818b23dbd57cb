"""Other processes: they end with their parent, as an orphan would keep memory and write into the next run's
folder; and what another Python says."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

from viscot_core.errors import UsageError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies, also by kill -9 (Linux; nothing elsewhere).

    ``parent``: the process that must be the parent now; if it died before it could be asked, this one ends.
    A process group is not enough: torchrun starts every rank in a session of its own.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def said_by(python: str, program: str) -> str:
    """What another Python (``--python``) prints for a short program.

    Raises:
        UsageError: it is no Python.
    """
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"--python {python} does not run ({error}); give the path of a Python interpreter."
        ) from error
    return done.stdout


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of processes that end with this one. Use it in the thread that makes it: the kernel counts a
    process's parent as gone when the thread that started it ends."""
    return ProcessPoolExecutor(workers, initializer=die_with_parent, initargs=(os.getpid(),))


def parent_of(process: int) -> int | None:
    """The id of a process's parent (Linux; None elsewhere, or if there is no such process)."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            # "pid (name) state ppid": a name may have spaces and brackets of its own.
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None
