"""A call ends at its deadline, however slowly its server drips: a timeout of the socket alone never comes."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STEP = 0.1
"""How exactly a deadline is kept, in seconds."""


class Deadlines:
    """Closes the sockets of calls that are over their time, from one thread for all calls of a client."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[float, Callable[[], Any]]] = {}
        self._late: set[int] = set()
        self._numbers = itertools.count()
        self._closed = threading.Event()
        self._watches = False
        self._lock = threading.Lock()

    @contextmanager
    def within(self, seconds: float, stream: Callable[[], Any]) -> Iterator[Callable[[], bool]]:
        """Within the block the connection of ``stream()`` lives ``seconds``; yields whether it was ended."""
        number = next(self._numbers)
        with self._lock:
            if not self._watches:
                self._watches = True
                threading.Thread(target=self._watch, daemon=True, name="deadlines").start()
            self._open[number] = (time.monotonic() + seconds, stream)
        try:
            yield lambda: number in self._late
        finally:
            with self._lock:
                self._open.pop(number, None)
                self._late.discard(number)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(STEP):
            now = time.monotonic()
            with self._lock:
                # Under the lock: a call that is over has left, so that no later call of its thread is cut.
                for number, (until, stream) in self._open.items():
                    if until <= now:
                        self._late.add(number)
                        _shut(stream())


def _shut(stream: Any) -> None:
    """Wake up whoever reads from a connection: the bytes end."""
    sock = None if stream is None else stream.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError, ValueError):
            # Not the method of an SSL socket, which would take its session away from the reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
