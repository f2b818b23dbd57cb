"""Listen, serve, and leave well: uvicorn on a socket that was opened before the model was loaded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from viscot_core.engines.base import Engine
from viscot_core.errors import UsageError
from viscot_core.serve.app import create_app
from viscot_core.serve.server import Server
from viscot_core.serve.settings import ServeOptions


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        UsageError: the port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise UsageError(
            f"Cannot listen on {host}, port {port} ({error}); choose another --port or --host."
        ) from error
    return found


def url_of(listening: socket.socket) -> str:
    """Where a browser or a client finds the server."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def uvicorn_server(engine: Engine, options: ServeOptions, server: Server | None = None) -> uvicorn.Server:
    """The configured uvicorn, not yet running."""
    limits = options.limits
    config = uvicorn.Config(
        create_app(server or Server(engine, options)),
        http=_impatient(limits.head_seconds),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
        # Beyond it a connection is told 503 at once: no client can hold more sockets than this.
        limit_concurrency=limits.queue * 4 + 64,
    )
    return uvicorn.Server(config)


def serve(engine: Engine, options: ServeOptions, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; what is in flight is finished, nothing new is taken."""
    running = uvicorn_server(engine, options)
    ready()
    running.run(sockets=[listening])


def _impatient(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which closes a connection that does not send a whole head in time.

    uvicorn limits how long a connection idles between requests but not how long a head may take; without
    this, a byte a minute keeps a socket for good.
    """

    class Impatient(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_timer()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            """Start the clock while no request is under way; stop it once one is."""
            idle = self.cycle is None or self.cycle.response_complete
            if not idle:
                self._forget_timer()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(seconds, self._give_up)

        def _forget_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self) -> None:
            self._head_timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Impatient
