"""A reply as server-sent events: where the model looks, then the answer token by token."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Send

from viscot_core.policies.base import Look
from viscot_core.serve.errors import ApiError
from viscot_core.serve.replies import ChatReply, Completion

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class Stream:
    """Sends the chunks of ``reply`` in the order of the calls; nothing is sent after the end."""

    def __init__(self, send: Send, reply: ChatReply) -> None:
        self._send = send
        self._reply = reply
        self._order = asyncio.Lock()
        self._sent = ""
        self._begun = self._ended = False

    async def send_look(self, look: Look) -> None:
        """Send where the model looks."""
        async with self._order:
            if not self._ended:
                await self._events(self._reply.look(look))

    async def send_text(self, text: str) -> None:
        """Send the part of the answer so far that was not sent yet.

        An engine may begin an answer again: nothing is sent until it is longer than before.
        """
        async with self._order:
            if not self._ended and text != self._sent and text.startswith(self._sent):
                await self._events(self._more(text))

    async def finish(self, completion: Completion, *, usage: bool) -> None:
        """Send the rest of the answer and end the stream.

        Raises:
            ApiError: the answer was generated again and differs from what was sent.
        """
        async with self._order:
            if not completion.text.startswith(self._sent):
                raise ApiError(503, "The answer had to be made again and changed; ask again.", "changed")
            rest = [self._more(completion.text)] if completion.text != self._sent else []
            closing = [self._reply.last(completion), *([self._reply.usage(completion)] if usage else [])]
            await self._events(*rest, *closing)
            await self._end()

    async def fail(self, refusal: ApiError) -> bool:
        """End a stream that has begun with the error; return False if nothing was sent yet."""
        async with self._order:
            if self._begun:
                await self._events(refusal.body())
                await self._end()
            self._ended = True
            return self._begun

    def _more(self, text: str) -> dict[str, Any]:
        new, self._sent = text[len(self._sent) :], text
        return self._reply.text(new)

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
