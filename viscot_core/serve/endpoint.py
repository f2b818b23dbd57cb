"""``POST /v1/chat/completions``: one coroutine handles a request from its first byte to its last.

It is an ASGI application, not a route function, so that its place at the gate and its session are released
and its metrics counted however the request ends: answered, refused, timed out, or left by its client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from viscot_core.policies.base import Look
from viscot_core.serve.answering import OnLook, OnText, answer_request
from viscot_core.serve.batching import Session
from viscot_core.serve.errors import ApiError
from viscot_core.serve.guard.flight import HeldBytes
from viscot_core.serve.guard.gate import check_key, read_body
from viscot_core.serve.images import count_pixels, image_of, is_data
from viscot_core.serve.remote import no_urls
from viscot_core.serve.replies import ChatReply, Completion, Stream
from viscot_core.serve.requests import STRATEGY_HEADER, CheckedRequest, read_request
from viscot_core.serve.server import Server

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""nginx's status for a client that did not wait; counted, never sent."""


class ClientLeft(Exception):
    """The client closed its connection before the answer."""


class ChatEndpoint:
    """The endpoint, as an ASGI application."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; it is counted once, whatever happens."""
        started, strategy, status = time.perf_counter(), "unknown", 200
        stream: Stream | None = None
        try:
            request = Request(scope, receive)
            check_key(request, self.server.options.api_key)
            self.server.gate.check()
            with HeldBytes(self.server.bytes) as held:
                body = await read_body(request, self.server.limits, held)
                # A place is taken only now: a client that sends slowly must not keep others from it.
                with self.server.gate.enter():
                    checked = await self._read(body, request.headers.get(STRATEGY_HEADER))
                    strategy = checked.strategy
                    reply = ChatReply(checked, self.server.names[0])
                    stream = Stream(send, reply) if checked.stream else None
                    completion = await self._answer(checked, held, stream, receive, started)
            if stream is not None:
                await stream.finish(completion, usage=checked.usage_in_stream)
            else:
                await JSONResponse(reply.whole(completion))(scope, receive, send)
        except ClientLeft:
            status = CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - a request's edge: sent to the client, counted, logged
            refusal = _as_refusal(error)
            status = refusal.status
            if stream is None or not await stream.fail(refusal):
                response = JSONResponse(refusal.body(), status, headers=refusal.headers)
                await response(scope, receive, send)
        finally:
            self.server.metrics.requests.labels(status=str(status), strategy=strategy).inc()
            self.server.metrics.seconds.observe(time.perf_counter() - started)

    async def _read(self, body: bytes, strategy: str | None) -> CheckedRequest:
        server = self.server
        options = server.options
        read = partial(
            read_request,
            usual=options.usual,
            zooms=options.zoom is not None,
            samples=server.batcher.engine.traits.samples,
        )
        return await server.start(read, body, strategy, server.names, server.limits)

    async def _images(self, urls: Sequence[str], held: HeldBytes) -> list[bytes]:
        out = []
        for url in urls:
            if is_data(url):
                out.append(await self.server.start(image_of, url))
            elif self.server.fetcher is None:
                raise no_urls()
            else:
                out.append(await self.server.fetcher.fetch(url, held))
        return out

    async def _work(
        self,
        checked: CheckedRequest,
        held: HeldBytes,
        session: Session,
        on_look: OnLook,
        on_text: OnText | None,
    ) -> Completion:
        """Get the images, wait for room to decode them, then run ``answer_request`` in a thread."""
        server = self.server
        files = await self._images(checked.urls, held)
        pixels = await server.start(count_pixels, files, server.limits)
        await server.pixels.take(pixels)
        running = server.start(
            answer_request, checked, files, session, server.wording, server.options, on_look, on_text
        )

        def ended(thread: asyncio.Future[Completion]) -> None:
            server.pixels.give(pixels)
            thread.exception()  # asyncio warns of an error that nobody takes: that of a client that has left

        # A thread cannot be cancelled, only asked to stop: it holds its images until it ends by itself.
        running.add_done_callback(ended)
        return await asyncio.shield(running)

    async def _answer(
        self,
        checked: CheckedRequest,
        held: HeldBytes,
        stream: Stream | None,
        receive: Receive,
        started: float,
    ) -> Completion:
        """The answer, unless the time is over or the client has left before."""
        server, limits = self.server, self.server.limits
        loop = asyncio.get_running_loop()
        session = Session(server.batcher)

        # Both callbacks run in the request's thread; sending belongs to the event loop.
        def on_look(look: Look) -> None:
            if look.status is not None:
                server.metrics.boxes.labels(status=look.status.value).inc()
            if stream is not None:
                asyncio.run_coroutine_threadsafe(stream.send_look(look), loop)

        def send_text(text: str) -> None:
            if stream is not None:
                asyncio.run_coroutine_threadsafe(stream.send_text(text), loop)

        on_text = None if stream is None else send_text
        left = asyncio.ensure_future(_client_left(receive))
        work = asyncio.ensure_future(self._work(checked, held, session, on_look, on_text))
        try:
            remaining = limits.seconds - (time.perf_counter() - started)
            both: list[asyncio.Future[Any]] = [work, left]
            await asyncio.wait(both, timeout=max(remaining, 0), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if left.done():
                raise ClientLeft
            raise ApiError(504, f"There was no answer within {limits.seconds:g} s.", "timeout")
        finally:
            left.cancel()
            if not work.done():
                session.stop()
                work.cancel()
            server.metrics.tokens.labels(kind="prompt").inc(session.prompt_tokens)
            server.metrics.tokens.labels(kind="completion").inc(session.new_tokens)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _as_refusal(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    log.exception("A request failed unexpectedly.", exc_info=error)
    return ApiError(500, "Something unexpected happened; the server's log says more.", "internal")
