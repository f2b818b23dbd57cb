"""An engine that says what it is told to, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request, Traits

Reply = str | Generation


class ScriptedEngine:
    """Answers the requests in order with ``replies``; ``calls`` are the requests of each ``generate``.

    ``on_generate`` is called before a batch is answered. Every reply that somebody listens to is told twice:
    its first half, then all of it.
    """

    def __init__(
        self,
        *replies: Reply,
        deterministic: bool = True,
        on_generate: Callable[[Sequence[Request]], None] | None = None,
    ) -> None:
        self.name = "scripted"
        self.identity = {"engine": "scripted"}
        self.traits = Traits(batch=8, deterministic=deterministic)
        self.calls: list[list[Request]] = []
        self._replies = list(replies)
        self._on_generate = on_generate

    @property
    def requests(self) -> list[Request]:
        """All requests, in order."""
        return [request for call in self.calls for request in call]

    def prompt(self, messages: Sequence[Message]) -> str:
        return "\n".join(f"{message.role}: {message.text}" for message in messages)

    def reset(self) -> None:
        self.calls.clear()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.calls.append(list(requests))
        if self._on_generate is not None:
            self._on_generate(requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Generation:
        reply = self._replies.pop(0)
        generation = reply if isinstance(reply, Generation) else Generation(reply, len(reply), True)
        if request.on_text is not None:
            for length in (len(generation.text) // 2, len(generation.text)):
                request.on_text(generation.text[:length])
        return generation
