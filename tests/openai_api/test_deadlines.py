"""Servers that never end a reply, or send one without bounds."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from viscot_core.openai_api import completions
from viscot_core.openai_api.client import Client
from viscot_core.openai_api.faults import Fault, Kind
from viscot_core.openai_api.options import ApiOptions

BODY = {"model": "made-up", "messages": [{"role": "user", "content": "q"}], "max_tokens": 9}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads the request and then does ``answer``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(1 << 16)
            with suppress(OSError):
                answer(connection)
                # Unread bytes at the close would reset the connection under the reader.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()


def drip(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(b"a")
        time.sleep(0.05)


@pytest.mark.parametrize("head", [HEAD + b"Content-Length: 99999\r\n\r\n", HEAD + b"X-Endless: "])
def test_a_reply_that_drips_ends_at_its_deadline(head: bytes) -> None:
    """In the body or in the headers: each byte comes in time, and the whole never does."""
    with answering(lambda connection: drip(connection, head)) as url:
        client = Client(url, None, ApiOptions(timeout=0.4, attempts=1))
        start = time.monotonic()
        with client, pytest.raises(Fault, match=r"took longer than 0\.4 s") as found:
            list(client.each(client.ask, [BODY]))
        assert time.monotonic() - start < 3 and found.value.kind is Kind.PASSING


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad"])
def test_a_reply_without_bounds_is_left(packed: bool, status: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "MAX_REPLY", 2**20)
    body = gzip.compress(bytes(1 << 24)) if packed else bytes(1 << 22)
    head = b"HTTP/1.1 " + status + (b"\r\nContent-Encoding: gzip" if packed else b"")
    length = b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(lambda connection: connection.sendall(head + length + body)) as url:
        client = Client(url, None, ApiOptions(timeout=20, attempts=3))
        with client, pytest.raises(Fault, match="larger than 1 MB") as found:
            list(client.each(client.ask, [BODY]))
        assert found.value.kind is Kind.REQUEST and client.usage.requests == 1
