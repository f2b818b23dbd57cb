"""A loopback server that speaks just enough chat completion to be a judge, and fails in every way one can."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

Script = Callable[[int, dict[str, Any]], "Action"]
"""``(number of this request from 0, its body) -> what to do``."""


class Action:
    """What the server does with one request."""

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        delay: float = 0.0,
        cut: int | None = None,
        reset: bool = False,
    ) -> None:
        self.status, self.body, self.headers = status, body, headers or {}
        self.delay, self.cut, self.reset = delay, cut, reset


def completion(
    text: str | None,
    *,
    finish: str = "stop",
    tokens: tuple[int, int] = (120, 6),
    model: str = "made-up-1",
    fingerprint: str | None = None,
    **more: Any,
) -> Action:
    """A reply of the judge."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    body = {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}
    body |= {} if fingerprint is None else {"system_fingerprint": fingerprint}
    return Action(body=json.dumps(body).encode(), **more)


def error(status: int, message: str = "made up", code: str | None = None, **headers: str) -> Action:
    """An error as OpenAI words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Action(status, json.dumps({"error": {"message": message, "code": code}}).encode(), named)


PASSING_FAULTS: dict[str, Action] = {
    "reset": Action(reset=True),
    "stalled": completion("score: 0.5", delay=0.6),
    "429": error(429),
    "429 with Retry-After": error(429, Retry_After="0.02"),
    "429 with a date": error(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "500": error(500),
    "502, HTML": Action(502, b"<html>Bad Gateway</html>"),
    "503": error(503),
    "body cut off": completion("score: 0.5", cut=40),
    "truncated JSON": Action(body=b'{"choices": [{"message": {"content": "score: 0'),
    "empty choices": Action(body=b'{"choices": []}'),
    "no JSON": Action(body=b"hello"),
    "JSON list": Action(body=b"[1]"),
}
"""Faults that a later attempt may not meet."""


class JudgeServer:
    """Runs in a thread; ``requests`` are the bodies it got, ``headers`` the header block of each.

    ``connections`` counts those that were opened, ``most_open`` the requests answered at the same time.

    ``port`` 0: any that is free.
    """

    def __init__(self, script: Script, port: int = 0) -> None:
        self.script, self._port = script, port
        self.models: list[dict[str, Any]] | None = None
        """What ``GET /models`` tells; it counts as no request."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.open_now = self.most_open = self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.lower().splitlines()
        if lines[0].startswith("get "):
            self.connections -= 1
            told = json.dumps({"data": self.models or []}).encode()
            writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {len(told)}\r\n\r\n".encode() + told)
            await writer.drain()
            return False
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
        body = json.loads(await reader.readexactly(length))
        number = len(self.requests)
        self.requests.append(body)
        self.headers.append(head)
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        action = self.script(number, body)
        await asyncio.sleep(action.delay)
        self.open_now -= 1
        if action.reset:
            writer.transport.abort()
            return False
        lines = [f"HTTP/1.1 {action.status} X", f"Content-Length: {len(action.body)}"]
        lines += [f"{name}: {value}" for name, value in action.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + action.body[: action.cut])
        await writer.drain()
        return action.cut is None
