"""A queue in which every visitor can see how many are before them."""

from __future__ import annotations

import itertools
import threading

from viscot_core.errors import EngineError


class VisitorQueue:
    """Lets ``places`` visitors in at once; at most ``length`` more may wait, in the order they came."""

    def __init__(self, places: int, length: int) -> None:
        self._places, self._length = places, length
        self._tickets: list[int] = []
        self._numbers = itertools.count()
        self._moved = threading.Condition()

    def join(self) -> int:
        """A ticket, to be returned with ``leave``.

        Raises:
            EngineError: the queue is full.
        """
        with self._moved:
            if len(self._tickets) >= self._places + self._length:
                raise EngineError(f"{len(self._tickets)} people are asking already; try again in a moment.")
            ticket = next(self._numbers)
            self._tickets.append(ticket)
            return ticket

    def before(self, ticket: int) -> int:
        """How many visitors must leave before it is this ticket's turn; 0 when it is."""
        with self._moved:
            return max(self._tickets.index(ticket) - self._places + 1, 0)

    def wait(self, seconds: float) -> None:
        """Wait until somebody leaves, but no longer than ``seconds``."""
        with self._moved:
            self._moved.wait(seconds)

    def leave(self, ticket: int) -> None:
        """Return the ticket, so that the next visitor may come in."""
        with self._moved:
            self._tickets.remove(ticket)
            self._moved.notify_all()
