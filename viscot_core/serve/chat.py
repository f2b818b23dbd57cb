"""``POST /v1/chat/completions``: one coroutine holds a request from its first byte to its last.

Written against ASGI itself, so that a place at the gate, a session and the counters are given back however a
request ends: answered, refused, too slow, or left by its client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from viscot_core.chain import Look
from viscot_core.engines.base import Engine
from viscot_core.serve.batching import Batcher, Session
from viscot_core.serve.errors import ApiError
from viscot_core.serve.guard import Gate, check_key, read_body
from viscot_core.serve.metrics import Metrics
from viscot_core.serve.pictures import is_data, picture_of
from viscot_core.serve.remote import Fetcher, no_urls
from viscot_core.serve.settings import ServeOptions
from viscot_core.serve.wire import ALIAS, STRATEGY_HEADER, Asked, Reply, Said, read
from viscot_core.serve.work import work

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""nginx's status for a client that did not wait; counted, never sent."""
PIECES = re.compile(r"\S+\s*|\s+")
"""An answer is streamed in words: greedy answers of a whole batch come at once."""

T = TypeVar("T")


class Server:
    """Everything a running server holds: the engine behind its batcher, the gate, the counters."""

    def __init__(self, engine: Engine, options: ServeOptions, fetcher: Fetcher | None = None) -> None:
        limits = options.limits
        self.options = options
        self.limits = limits
        self.names = tuple(dict.fromkeys((engine.name, ALIAS)))
        self.gate = Gate(limits.queue)
        self.metrics = Metrics(in_flight=lambda: self.gate.inside, waiting=lambda: self.batcher.waiting)
        self.batcher = Batcher(
            engine, batch=limits.batch, gather_seconds=limits.gather_seconds, watch=self.metrics.batch
        )
        self.fetcher = fetcher
        if fetcher is None and options.allow_urls:
            self.fetcher = Fetcher(options.allow_urls, max_bytes=limits.body_bytes)
        self._threads = ThreadPoolExecutor(limits.queue, thread_name_prefix="viscot-request")

    def start(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run ``function`` in a thread; there is one for each place at the gate."""
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def close(self) -> None:
        """Finish what is queued and stop."""
        self.batcher.close()
        self._threads.shutdown(wait=True)


class ClientLeft(Exception):
    """The client closed its connection before the answer."""


class Events:
    """Server-sent events over one reply, begun with the first of them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._order = asyncio.Lock()
        self.begun = False

    async def event(self, *values: dict[str, Any]) -> None:
        """Send each value as an event."""
        await self._write("".join(f"data: {json.dumps(value)}\n\n" for value in values))

    async def end(self) -> None:
        """Send the end mark and close the reply."""
        await self._write("data: [DONE]\n\n")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, text: str) -> None:
        async with self._order:
            if not self.begun:
                self.begun = True
                headers = [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store"),
                ]
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})


class Chat:
    """The endpoint, as an ASGI application."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, it is counted once."""
        started, way, status = time.perf_counter(), "unknown", 200
        events = Events(send)
        try:
            request = Request(scope, receive)
            check_key(request, self.server.options.api_key)
            with self.server.gate.enter():
                asked = await self._read(request)
                way = asked.way
                reply = Reply(asked, self.server.names[0])
                said = await self._answer(asked, reply, receive, events, started)
            if asked.stream:
                await self._finish(events, asked, reply, said)
            else:
                await JSONResponse(reply.whole(said))(scope, receive, send)
        except ClientLeft:
            status = CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - a request's edge: told to the client, counted, logged
            refusal = _as_refusal(error)
            status = refusal.status
            await self._refuse(refusal, events, scope, receive, send)
        finally:
            self.server.metrics.requests.add(status=str(status), strategy=way)
            self.server.metrics.seconds.observe(time.perf_counter() - started)

    async def _read(self, request: Request) -> Asked:
        limits = self.server.limits
        body = await read_body(request, limits)
        strategy = request.headers.get(STRATEGY_HEADER)
        return await self.server.start(read, body, strategy, self.server.names, limits)

    async def _pictures(self, urls: Sequence[str]) -> list[bytes]:
        out = []
        for url in urls:
            if is_data(url):
                out.append(await self.server.start(picture_of, url))
            elif self.server.fetcher is None:
                raise no_urls()
            else:
                out.append(await self.server.fetcher.fetch(url))
        return out

    async def _answer(
        self, asked: Asked, reply: Reply, receive: Receive, events: Events, started: float
    ) -> Said:
        """Run the work in a thread until it is done, the time is over, or the client is gone."""
        server, limits = self.server, self.server.limits
        loop = asyncio.get_running_loop()
        session = Session(server.batcher)

        def tell(look: Look) -> None:
            server.metrics.boxes.add(status=look.parsed.status.value)
            if asked.stream:
                asyncio.run_coroutine_threadsafe(events.event(reply.first(), reply.looked(look)), loop)

        left = asyncio.ensure_future(_client_left(receive))
        done: asyncio.Future[Said] | None = None
        try:
            pictures = await self._pictures(asked.urls)
            done = server.start(
                work, asked, pictures, session, server.options.crop_policy, limits.pixels, tell
            )
            remaining = limits.seconds - (time.perf_counter() - started)
            both: list[asyncio.Future[Any]] = [done, left]
            await asyncio.wait(both, timeout=max(remaining, 0), return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if left.done():
                raise ClientLeft
            raise ApiError(504, f"There was no answer within {limits.seconds:g} s.", "timeout")
        finally:
            left.cancel()
            if done is not None and not done.done():
                session.stop()
                done.add_done_callback(_forget)
            server.metrics.tokens.add(session.prompt_tokens, kind="prompt")
            server.metrics.tokens.add(session.new_tokens, kind="completion")

    async def _finish(self, events: Events, asked: Asked, reply: Reply, said: Said) -> None:
        opening = [] if events.begun else [reply.first()]
        await events.event(*opening, *(reply.words(piece) for piece in PIECES.findall(said.text)))
        closing = [reply.last(said)]
        if asked.usage_in_stream:
            closing.append(reply.usage(said))
        await events.event(*closing)
        await events.end()

    async def _refuse(
        self, refusal: ApiError, events: Events, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if events.begun:  # the status is out already; the words go into the stream
            await events.event(refusal.body())
            await events.end()
            return
        await JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)(scope, receive, send)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _forget(done: asyncio.Future[Any]) -> None:
    """Take the result of stopped work, whose error nobody waits for."""
    if not done.cancelled():
        done.exception()


def _as_refusal(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    log.exception("A request failed unexpectedly.", exc_info=error)
    return ApiError(500, "Something unexpected happened; the server's log says more.", "internal")
