"""Listen, serve and shut down: uvicorn on a socket that was opened before the model was loaded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from viscot_core.errors import UsageError
from viscot_core.serve.app import create_app
from viscot_core.serve.server import Server


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        UsageError: the port is in use, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    # A restarted server need not wait until the old one's connections have expired.
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
    """The server's address for a browser or a client."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def uvicorn_server(server: Server) -> uvicorn.Server:
    """The configured uvicorn, not yet running."""
    limits = server.limits
    config = uvicorn.Config(
        create_app(server),
        http=_protocol_with_head_timeout(limits.head_seconds),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        # Longer than any request may take, so that none is cut off.
        timeout_graceful_shutdown=int(limits.seconds) + 1,
        # Beyond it a connection gets 503 at once: no client can hold more sockets than this.
        limit_concurrency=limits.queue * 4 + 64,
    )
    return uvicorn.Server(config)


def serve(server: Server, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; then requests in flight are finished and new ones refused."""
    running = uvicorn_server(server)
    on_ready()
    running.run(sockets=[listening])


def _protocol_with_head_timeout(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which also closes a connection that does not send a whole head in time.

    uvicorn limits how long a connection is idle between requests but not how long a head may take: without
    this, a client that sends a byte a minute keeps its socket for ever.
    """

    class HeadTimeoutProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._update_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._update_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _update_timer(self) -> None:
            """Run the timer while no request is being handled."""
            idle = self.cycle is None or self.cycle.response_complete
            if not idle:
                self._stop_timer()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(seconds, self._close)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _close(self) -> None:
            self._head_timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return HeadTimeoutProtocol
