"""Limits on what a page may send: Gradio reads whole events into memory and parses them, however large."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viscot_core.serve.errors import ApiError
from viscot_core.serve.guard.flight import ByteLimit, HeldBytes
from viscot_core.serve.guard.gate import check_elements

MAX_ELEMENTS = 20_000
"""Brackets, braces and commas of an event; the page's own have some hundred."""
SECONDS = 60.0
"""How long an event may take to arrive."""


class SizeLimit:
    """ASGI middleware that refuses a request of undeclared or too great a length, or of too many elements.

    ``max_bytes`` limits one request; all requests that are arriving together may have eight times that.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._bytes = ByteLimit(8 * max_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it; what is declared too large is not read."""
        length = _declared(scope)
        if length == 0:
            await self._app(scope, receive, send)
            return
        try:
            if length is None or length > self._max_bytes:
                raise ApiError(413, "The request is too large.", "too_large")
            with HeldBytes(self._bytes) as held:
                body = await _read(receive, held)
            if body is None:
                return  # the visitor has left
            check_elements(body, MAX_ELEMENTS)
        except TimeoutError:
            await _refuse(
                send, ApiError(408, f"The request did not arrive in {SECONDS:g} s.", "slow_request")
            )
        except ApiError as error:
            await _refuse(send, error)
        else:
            await self._app(scope, _again(body, receive), send)


def _declared(scope: Scope) -> int | None:
    """The length of the body; None where it is not declared, or in two ways."""
    if scope["type"] != "http":
        return 0
    headers = dict(scope["headers"])
    length: bytes = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and b"transfer-encoding" not in headers else None


async def _read(receive: Receive, held: HeldBytes) -> bytes | None:
    body = bytearray()
    async with asyncio.timeout(SECONDS):
        while (message := await receive())["type"] == "http.request":
            held.add(len(message.get("body", b"")))
            body += message.get("body", b"")
            if not message.get("more_body", False):
                return bytes(body)
    return None


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` for a request whose body was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


async def _refuse(send: Send, error: ApiError) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.message.encode()})
