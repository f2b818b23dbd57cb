"""A limit on what a page may send: Gradio reads whole events into memory, however large."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Send], Awaitable[None]]


class SizeLimit:
    """ASGI middleware that refuses a request if its declared length is missing or above ``max_bytes``."""

    def __init__(self, app: App, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]], send: Send
    ) -> None:
        """Pass the request on, or answer 413 without reading it."""
        if scope["type"] == "http" and not self._fits(dict(scope["headers"])):
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": b"The request is too large."})
            return
        await self._app(scope, receive, send)

    def _fits(self, headers: dict[bytes, bytes]) -> bool:
        # A chunked body declares no length.
        if b"transfer-encoding" in headers:
            return False
        length = headers.get(b"content-length", b"0")
        return length.isdigit() and int(length) <= self._max_bytes
