"""OpenAI's chat completions as far as viscot speaks them: the one reply, or its chunks.

Where the model looked and how the box was read stand in an extra field, ``viscot``.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from viscot_core.asking import describe
from viscot_core.chain import Answer, Look
from viscot_core.serve.requests import Asked


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a request; ``answer`` is None for raw ones."""

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
        """Tokens of both turns together."""
        total = self.prompt_tokens + self.new_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": total,
        }


class Reply:
    """Builds the one reply, or the chunks, of a request."""

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked = asked
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, said: Said) -> dict[str, Any]:
        """A chat completion with viscot's field."""
        message = {"role": "assistant", "content": said.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish_reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": said.usage,
            "viscot": self._field(said),
        }

    def first(self) -> dict[str, Any]:
        """The chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def looked(self, look: Look) -> dict[str, Any]:
        """The chunk that says where the model looks, before it answers."""
        size = look.question.view.image.size
        answer = Answer(
            "", look.parsed.box, look.window, look.parsed.status, look.parsed.text, size, look.seconds
        )
        field = describe(answer)
        del field["answer"], field["seconds"]
        return {**self._chunk({}), "viscot": field}

    def words(self, text: str) -> dict[str, Any]:
        """A chunk of the answer."""
        return self._chunk({"content": text})

    def last(self, said: Said) -> dict[str, Any]:
        """The chunk that closes a stream, with all of viscot's field."""
        return {**self._chunk({}, said.finish_reason), "viscot": self._field(said)}

    def usage(self, said: Said) -> dict[str, Any]:
        """The extra chunk of ``stream_options.include_usage``."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": said.usage}

    def _field(self, said: Said) -> dict[str, Any]:
        about = {"strategy": "raw"} if said.answer is None else describe(said.answer)
        about.pop("answer", None)
        return {**about, "ignored": list(self._asked.ignored)}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
