"""A run that is told to stop (SIGTERM: a preempted job, a time limit) finishes its step, saves and leaves.

The signal only sets a flag. The trainer asks for it in each step, on all processes together, so that they
leave at the same step, wherever the signal arrived.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
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
        # A forked child inherits this handler and ends as usual.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def begin_loader_worker(seed: Callable[[int], object], worker: int) -> None:
    """``worker_init_fn`` of a loader: ``seed`` of the Trainer, and a worker that outlives the first SIGTERM.

    SLURM and ``timeout`` send it to the workers too, but the step that is finished needs their rows; without
    them nothing would be saved. A second one ends the worker.
    """

    def note(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, note)
    seed(worker)
