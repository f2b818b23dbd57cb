"""A run that is told to stop (SIGTERM: a preempted job, a time limit) finishes its step, saves and leaves.

The signal only sets a flag. The trainer asks for it in each step, on all processes together, so that they
leave at the same step, wherever the signal arrived.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_told = threading.Event()


def told() -> bool:
    """Whether this process was told to stop."""
    return _told.is_set()


@contextmanager
def listening() -> Iterator[None]:
    """Within the block SIGTERM sets the flag. In other threads than the first, signals stay as they are."""
    _told.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def note(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:
            _told.set()
            return
        # A forked child, such as a loader's worker, inherits this handler and ends as usual.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
