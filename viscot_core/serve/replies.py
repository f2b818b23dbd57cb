"""The part of OpenAI's chat completions that viscot supports: the reply, whole or in chunks.

An extra field ``viscot`` says where the model looked and how its box was read.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from viscot_core.infer import describe
from viscot_core.policies.base import Answer, Look
from viscot_core.serve.requests import CheckedRequest


@dataclass(frozen=True, slots=True)
class Completion:
    """The outcome of a request; ``answer`` is None for raw ones. Tokens are those of all turns together."""

    text: str
    finished: bool
    prompt_tokens: int
    new_tokens: int
    answer: Answer | None = None

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
        field = describe(Answer("", look.size, (look,)))
        del field["answer"], field["seconds"]
        return {**self._chunk({}), "viscot": field}

    def text(self, text: str) -> dict[str, Any]:
        """A chunk of the answer."""
        return self._chunk({"content": text})

    def last(self, completion: Completion) -> dict[str, Any]:
        """The chunk that ends a stream, with the whole field ``viscot``."""
        return {**self._chunk({}, completion.finish_reason), "viscot": self._field(completion)}

    def usage(self, completion: Completion) -> dict[str, Any]:
        """The extra chunk of ``stream_options.include_usage``."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": completion.usage}

    def _field(self, completion: Completion) -> dict[str, Any]:
        about = {"strategy": "raw"} if completion.answer is None else describe(completion.answer)
        about.pop("answer", None)
        return {**about, "ignored": self._ignored}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
