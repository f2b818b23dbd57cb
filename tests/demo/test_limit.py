"""What the page refuses before Gradio reads it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs viscot[demo]")
from viscot_core.demo.limit import SizeLimit


def sent(headers: dict[bytes, bytes], *blocks: bytes) -> tuple[int, list[bytes]]:
    """The status, and the bodies that reached the application."""
    reached: list[bytes] = []
    statuses: list[int] = []
    messages: list[Any] = [{"type": "http.request", "body": block, "more_body": True} for block in blocks]
    messages = [*messages, {"type": "http.request", "body": b"", "more_body": False}]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "headers": list(headers.items())}
    asyncio.run(SizeLimit(app, 1_000_000)(scope, receive, send))
    return statuses[0], reached


def test_an_event_arrives_whole() -> None:
    assert sent({b"content-length": b"6"}, b"abc", b"def") == (200, [b"abcdef"])


@pytest.mark.parametrize(
    "headers",
    [
        {b"content-length": b"1000001"},
        {b"transfer-encoding": b"chunked"},
        {b"content-length": b"5", b"transfer-encoding": b"chunked"},
        {b"content-length": b"-5"},
    ],
)
def test_a_length_that_is_too_great_or_unclear_is_refused(headers: dict[bytes, bytes]) -> None:
    assert sent(headers, b"hello") == (413, [])


def test_an_event_of_very_many_lists_is_refused_before_it_is_parsed() -> None:
    assert sent({b"content-length": b"90000"}, b"[]," * 30_000) == (400, [])
