"""``POST /v1/chat/completions``: one coroutine holds a request from its first byte to its last.

Written against ASGI itself, so that a place at the gate, a session and the counters are given back however a
request ends: answered, refused, too slow, or left by its client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from viscot_core.chain import Look
from viscot_core.serve.batching import Session
from viscot_core.serve.errors import ApiError
from viscot_core.serve.events import Stream
from viscot_core.serve.guard import check_key, read_body
from viscot_core.serve.images import image_of, is_data
from viscot_core.serve.remote import no_urls
from viscot_core.serve.replies import Reply, Said
from viscot_core.serve.requests import STRATEGY_HEADER, Asked, read
from viscot_core.serve.server import Server
from viscot_core.serve.work import work

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""nginx's status for a client that did not wait; counted, never sent."""


class ClientLeft(Exception):
    """The client closed its connection before the answer."""


class Chat:
    """The endpoint, as an ASGI application."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, it is counted once."""
        started, way, status = time.perf_counter(), "unknown", 200
        stream: Stream | None = None
        try:
            request = Request(scope, receive)
            check_key(request, self.server.options.api_key)
            with self.server.gate.enter():
                asked = await self._read(request)
                way = asked.way
                reply = Reply(asked, self.server.names[0])
                stream = Stream(send, reply) if asked.stream else None
                said = await self._answer(asked, stream, receive, started)
            if stream is not None:
                await stream.finish(said, usage=asked.usage_in_stream)
            else:
                await JSONResponse(reply.whole(said))(scope, receive, send)
        except ClientLeft:
            status = CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - a request's edge: told to the client, counted, logged
            refusal = _as_refusal(error)
            status = refusal.status
            if stream is None or not await stream.fail(refusal):
                told = JSONResponse(refusal.body(), status, headers=refusal.headers)
                await told(scope, receive, send)
        finally:
            self.server.metrics.requests.add(status=str(status), strategy=way)
            self.server.metrics.seconds.observe(time.perf_counter() - started)

    async def _read(self, request: Request) -> Asked:
        limits = self.server.limits
        body = await read_body(request, limits)
        strategy = request.headers.get(STRATEGY_HEADER)
        return await self.server.start(read, body, strategy, self.server.names, limits)

    async def _images(self, urls: Sequence[str]) -> list[bytes]:
        out = []
        for url in urls:
            if is_data(url):
                out.append(await self.server.start(image_of, url))
            elif self.server.fetcher is None:
                raise no_urls()
            else:
                out.append(await self.server.fetcher.fetch(url))
        return out

    async def _answer(self, asked: Asked, stream: Stream | None, receive: Receive, started: float) -> Said:
        """Run the work in a thread until it is done, the time is over, or the client is gone."""
        server, limits = self.server, self.server.limits
        loop = asyncio.get_running_loop()
        session = Session(server.batcher)

        def looked(look: Look) -> None:
            server.metrics.boxes.add(status=look.parsed.status.value)
            if stream is not None:
                asyncio.run_coroutine_threadsafe(stream.looked(look), loop)

        def hear(text: str) -> None:
            if stream is not None:
                asyncio.run_coroutine_threadsafe(stream.text(text), loop)

        left = asyncio.ensure_future(_client_left(receive))
        done: asyncio.Future[Said] | None = None
        try:
            images = await self._images(asked.urls)
            policy = server.options.crop_policy
            done = server.start(work, asked, images, session, policy, limits.pixels, looked, hear)
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
