"""The part of OpenAI's chat completions that viscot supports: the reply, whole or as server-sent events.

An extra field ``viscot`` says where the model looked and how its box was read.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

from viscot_core.policies.base import Answer, Look
from viscot_core.serve.errors import ApiError
from viscot_core.serve.requests import CheckedRequest


@dataclass(frozen=True, slots=True)
class Completion:
    """The outcome of a request; ``answer`` is None for raw ones. Tokens are those of all turns together."""

    text: str
    finished: bool
    prompt_tokens: int
    new_tokens: int
    answer: Answer | None = None
    thought: str = ""
    """What a reasoning model thought in all turns; it is no part of ``text``."""

    @property
    def finish_reason(self) -> str:
        return "stop" if self.finished else "length"

    @property
    def usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.new_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": total,
        }


class ChatReply:
    """Builds the reply of a request, whole or in chunks."""

    def __init__(self, request: CheckedRequest, model: str) -> None:
        self._ignored = list(request.ignored)
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, completion: Completion) -> dict[str, Any]:
        """A chat completion with the field ``viscot``."""
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        message |= _thought(completion)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": completion.usage,
            "viscot": self._field(completion),
        }

    def first(self) -> dict[str, Any]:
        """The chunk that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def look(self, look: Look) -> dict[str, Any]:
        """The chunk that says where the model looks, before it answers."""
        field = Answer("", look.size, (look,)).to_dict()
        del field["answer"], field["seconds"]
        return {**self._chunk({}), "viscot": field}

    def text(self, text: str) -> dict[str, Any]:
        """A chunk of the answer."""
        return self._chunk({"content": text})

    def last(self, completion: Completion) -> dict[str, Any]:
        """The chunk that ends a stream, with the whole field ``viscot``."""
        last = self._chunk(_thought(completion), completion.finish_reason)
        return {**last, "viscot": self._field(completion)}

    def usage(self, completion: Completion) -> dict[str, Any]:
        """The extra chunk of ``stream_options.include_usage``."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": completion.usage}

    def _field(self, completion: Completion) -> dict[str, Any]:
        answer = completion.answer
        if answer is None:
            return {"strategy": "raw", "ignored": self._ignored}
        about = answer.to_dict()
        del about["answer"]
        # Of any turn: a region's words may be cut as well, and `finish_reason` is about the answer's.
        return {**about, "truncated": answer.truncated, "ignored": self._ignored}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def _thought(completion: Completion) -> dict[str, str | None]:
    """The field that DeepSeek, vLLM and others have for it; OpenAI's protocol has none."""
    return {"reasoning_content": completion.thought} if completion.thought else {}


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
                again = "The answer had to be made again and changed; ask again."
                if completion.thought:  # only its end was marked: until then its words seemed the answer
                    again = "What was sent was the model's thought; ask without 'stream'."
                raise ApiError(503, again, "changed")
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
        # As late as possible: until the head is sent, an error can still have a status of its own.
        if not self._begun:
            self._begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            values = (self._reply.first(), *values)
        text = "".join(f"data: {json.dumps(value)}\n\n" for value in values)
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def _end(self) -> None:
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
