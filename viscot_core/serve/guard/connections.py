"""Connections that a client only holds open: closed in time, and closed first when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from viscot_core.serve.settings import Limits

GRACE = 0.1
"""Seconds for which there may be twice as many connections as the limit says."""


def limited_protocol(limits: Limits) -> type[H11Protocol]:
    """uvicorn's HTTP protocol with the limits that it lacks.

    uvicorn limits how long a connection is idle between two requests. It does not limit how long the head of
    a request takes, nor how long a reply waits for a client that does not read it; and where there are too
    many connections, it answers 503 to all, also to those that have a question.
    """

    class LimitedProtocol(H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head = Timer(self.loop, limits.head_seconds, self._close_idle)
            self._write = Timer(self.loop, limits.write_seconds, self._abort)
            self._waits_since = self.loop.time()

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head.start()
            if len(self.connections) > 2 * limits.connections:
                self._make_room()
            elif len(self.connections) > limits.connections:
                # Not at once: of connections that came together, some have sent a request already, and it is
                # read only after all have been accepted.
                self.loop.call_later(GRACE, self._make_room)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._is_idle():
                self._head.stop()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._waits_since = self.loop.time()
            if self._is_idle():  # no further request came with the last one
                self._head.start()

        def send_400_response(self, msg: str) -> None:
            # h11 raises where a reply has begun already: what comes after it is no HTTP then.
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self._abort()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write.start()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._write.stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head.stop()
            self._write.stop()
            super().connection_lost(exc)

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _make_room(self) -> None:
            """If there are too many still, close the connection that has waited longest for its client."""
            waiting = [each for each in self.connections if each._is_idle() or each.cycle.more_body]
            if waiting and len(self.connections) > limits.connections:
                min(waiting, key=lambda each: each._waits_since)._abort()

        def _close_idle(self) -> None:
            if self._is_idle():
                self._abort()

        def _abort(self) -> None:
            self.connections.discard(self)
            # Without waiting until the client has read what was written: it might never.
            self.transport.abort()

    return LimitedProtocol


class Timer:
    """Calls ``end`` once, ``seconds`` after ``start``, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, end: Callable[[], None]) -> None:
        self._loop, self._seconds, self._end = loop, seconds, end
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start it, if it does not run already."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._ring)

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        self._end()
