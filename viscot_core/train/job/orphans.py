"""Processes that end with their parent: an orphan would keep writing in a run folder of the next run."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, also by kill -9 (Linux; nothing elsewhere).

    torchrun starts every rank in a session of its own, so that killing its process group does not reach them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
