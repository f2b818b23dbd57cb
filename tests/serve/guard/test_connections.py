"""Clients that only hold connections open, on raw sockets: they are closed, and others are answered."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from serve_help import Looker, Running, question, wait_for

Serve = Callable[..., Running]
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def connect(here: Running) -> socket.socket:
    host, port = here.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_all(client: socket.socket) -> bytes:
    out = b""
    try:
        while block := client.recv(65536):
            out += block
    except ConnectionResetError:
        pass  # as good as an end
    return out


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\n{"], ids=("", "head", "body"))
def test_idle_connections_give_way_to_real_calls(serve: Serve, sent: bytes) -> None:
    here = serve(api_key="secret", queue=4)  # 80 connections
    key = {"authorization": "Bearer secret"}
    sent = sent.replace(b"Host: x", b"Host: x\r\nAuthorization: Bearer secret")
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(here)).sendall(sent)
        statuses = [here.post(question(), headers=key).status_code for _ in range(5)]
        assert statuses == [200] * 5
        connections = here.uvicorn.server_state.connections
        wait_for(lambda: bool(len(connections) <= here.server.limits.connections), 5)


def test_a_question_in_work_is_not_closed_for_others(serve: Serve) -> None:
    here = serve(Looker(seconds=0.3), queue=1)  # 68 connections
    body = json.dumps(question()).encode()
    with ExitStack() as stack:
        first = stack.enter_context(connect(here))
        first.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_for(lambda: bool(here.server.gate.inside))
        for _ in range(100):
            stack.enter_context(connect(here))
        assert read_all(first).startswith(b"HTTP/1.1 200")


def test_slow_bodies_take_no_place_at_the_gate(serve: Serve) -> None:
    here = serve(queue=2)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(here)).sendall(HEAD + b"Content-Length: 99\r\n\r\n{")
        assert here.post(question()).status_code == 200


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\ncontent-length: 0\r\n",
    ],
)
@pytest.mark.parametrize("start", [b"POST /v1/chat/completions HTTP/1.1", b"GET /health HTTP/1.1"])
def test_a_length_given_twice_is_refused_and_closed(serve: Serve, framing: bytes, start: bytes) -> None:
    with connect(serve()) as client:
        smuggled = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        head = start + b"\r\nHost: x\r\nContent-Type: application/json\r\n" + framing
        client.sendall(head + b"\r\n" + smuggled)
        reply = read_all(client)
    assert reply.startswith(b"HTTP/1.1 400") and b"length is unclear" in reply
    assert reply.count(b"HTTP/1.1") == 1, "what comes after it is not read as a request"


def test_chunks_in_http_1_0_are_refused(serve: Serve) -> None:
    with connect(serve()) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 400")


def test_a_client_that_never_reads_is_closed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests on one connection, whose replies fill every buffer."""
    here = serve(write_seconds=0.2)
    monkeypatch.setattr(here.server.metrics, "text", lambda: "x" * 1_000_000)
    with connect(here) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.05)
        ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100
        until = time.monotonic() + 20
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < until:
                try:
                    client.sendall(ask)
                except TimeoutError:
                    continue
    assert here.get("/health").status_code == 200
