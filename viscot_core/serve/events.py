"""A reply in pieces, as server-sent events: where the model looks, then the answer token by token."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Send

from viscot_core.chain import Look
from viscot_core.serve.errors import ApiError
from viscot_core.serve.replies import Reply, Said

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class Stream:
    """The chunks of ``reply``. Whoever tells first is sent first; nothing is sent after the end."""

    def __init__(self, send: Send, reply: Reply) -> None:
        self._send = send
        self._reply = reply
        self._order = asyncio.Lock()
        self._told = ""
        self._begun = self._ended = False

    async def looked(self, look: Look) -> None:
        """Send where the model looks."""
        async with self._order:
            if not self._ended:
                await self._events(self._reply.looked(look))

    async def text(self, text: str) -> None:
        """Send what the answer so far has more than was sent; an answer begun again, once it has more."""
        async with self._order:
            if not self._ended and text != self._told and text.startswith(self._told):
                await self._events(self._more(text))

    async def finish(self, said: Said, *, usage: bool) -> None:
        """Send the rest of the answer and close.

        Raises:
            ApiError: the answer had to be made again and is another than what was sent.
        """
        async with self._order:
            if not said.text.startswith(self._told):
                raise ApiError(503, "The answer had to be made again and changed; ask again.", "changed")
            rest = [self._more(said.text)] if said.text != self._told else []
            closing = [self._reply.last(said), *([self._reply.usage(said)] if usage else [])]
            await self._events(*rest, *closing)
            await self._end()

    async def fail(self, refusal: ApiError) -> bool:
        """Close with the error's words where the status is out already; False where nothing was sent yet."""
        async with self._order:
            if self._begun:
                await self._events(refusal.body())
                await self._end()
            self._ended = True
            return self._begun

    def _more(self, text: str) -> dict[str, Any]:
        new, self._told = text[len(self._told) :], text
        return self._reply.words(new)

    async def _events(self, *values: dict[str, Any]) -> None:
        if not self._begun:
            self._begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            values = (self._reply.first(), *values)
        text = "".join(f"data: {json.dumps(value)}\n\n" for value in values)
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def _end(self) -> None:
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
