"""Listen, serve and shut down: uvicorn on a socket that was opened before the model was loaded."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from viscot_core.errors import UsageError
from viscot_core.serve.app import create_app
from viscot_core.serve.guard.connections import limited_protocol
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
        http=limited_protocol(limits),
        ws="none",
        log_level="error",  # its warnings are about what clients send: they could fill a disk
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        # Longer than any request may take, so that none is cut off.
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    return uvicorn.Server(config)


def serve(server: Server, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; then requests in flight are finished and new ones refused."""
    running = uvicorn_server(server)
    _allow_open_files(2 * server.limits.connections + 256)
    # Before a word is said: whoever reads the address and connects at once waits, and is not refused.
    listening.listen(running.config.backlog)
    on_ready()
    running.run(sockets=[listening])


def _allow_open_files(wanted: int) -> None:
    """Raise this process's limit on open files, as far as it may: each connection is one."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
