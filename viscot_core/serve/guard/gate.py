"""Limits on requests: the API key, how many at once, how large a body may be, how long it may take."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from viscot_core.serve.errors import ApiError, bad_request
from viscot_core.serve.guard.flight import HeldBytes
from viscot_core.serve.settings import Limits


class Gate:
    """Admits ``limit`` requests at once (in work or waiting); estimates when the next place is free."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._left_at: float | None = None
        self._pace = 1.0
        """Smoothed seconds between two requests that finish while others wait."""

    @property
    def inside(self) -> int:
        """Requests in work or waiting."""
        return self._inside

    def check(self) -> None:
        """Raise ApiError (429 with ``Retry-After``) if there is no place."""
        if self._inside >= self._limit:
            seconds = min(max(math.ceil(self._pace * self._inside / 2), 1), 60)
            raise _busy(f"{self._inside} requests are already waiting", seconds)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place.

        Raises:
            ApiError: 429 with ``Retry-After`` if there is none.
        """
        self.check()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._note_pace()

    def _note_pace(self) -> None:
        now = time.monotonic()
        if self._left_at is not None and self._inside:
            # A moving average, in which one gap counts as a minute at most.
            self._pace += 0.1 * (min(now - self._left_at, 60.0) - self._pace)
        self._left_at = now


def _busy(why: str, seconds: int) -> ApiError:
    headers = {"Retry-After": str(seconds)}
    return ApiError(429, f"{why}; try again in {seconds} s.", "busy", headers=headers)


class UnclearLength:
    """ASGI middleware: refuses a request whose length is given twice, and closes its connection.

    With Content-Length and Transfer-Encoding (or the latter in HTTP/1.0, which has none) a proxy and this
    server may disagree where the request ends; its rest would be read as another one (RFC 9112, 6.1).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400."""
        if scope["type"] == "http":
            names = {name for name, _ in scope["headers"]}
            if b"transfer-encoding" in names and (
                b"content-length" in names or scope["http_version"] == "1.0"
            ):
                refusal = bad_request("The request's length is unclear: send Content-Length only.")
                headers = {"Connection": "close"}
                await JSONResponse(refusal.body(), 400, headers=headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def check_key(request: Request, key: str | None) -> None:
    """Compare the bearer token with ``key``, in constant time whatever its length.

    Raises:
        ApiError: 401.
    """
    if key is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    # Digests have one length: on texts of unequal length compare_digest would return early.
    digests = [
        hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given.strip(), key)
    ]
    if not (hmac.compare_digest(*digests) and kind.lower() == "bearer"):
        raise ApiError(
            401,
            "The API key is missing or wrong: send 'Authorization: Bearer KEY'.",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def read_body(request: Request, limits: Limits, held: HeldBytes) -> bytes:
    """The body, within ``body_bytes`` and ``body_seconds``; its bytes are added to ``held`` as they come.

    Raises:
        ApiError: 413 too large, 408 too slow, 415 not JSON, 400 cut off, 429 too many bytes of others.
    """
    # A browser lets any site's page post text/plain to this machine; for JSON it asks the server first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Send the request as JSON (Content-Type: application/json).", "not_json")
    declared = request.headers.get("content-length", "0")
    too_large = not declared.isdigit() or int(declared) > limits.body_bytes
    body, discarded = bytearray(), 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for block in request.stream():
                too_large = too_large or len(body) + len(block) > limits.body_bytes
                if not too_large:
                    held.add(len(block))
                    body += block
                    continue
                # Closing with unread bytes resets the connection, and the client may never see the reason:
                # so up to twice the allowed size is read and discarded.
                discarded += len(block)
                if discarded > 2 * limits.body_bytes:
                    break
    except TimeoutError as error:
        if too_large:
            raise _too_large(limits) from error
        raise ApiError(
            408,
            f"The request did not arrive in {limits.body_seconds:g} s.",
            "slow_request",
            headers={"Connection": "close"},
        ) from error
    except ClientDisconnect as error:
        raise ApiError(400, "The request was cut off.", "cut_off") from error
    if too_large:
        raise _too_large(limits)
    return bytes(body)


def check_elements(body: bytes, limit: int) -> None:
    """Count what a parser would make objects of, without parsing.

    Raises:
        ApiError: 400 if the brackets, braces and commas are more than ``limit``.
    """
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > limit:
        raise bad_request(f"The request has more than {limit:,} brackets, braces and commas.")


def _too_large(limits: Limits) -> ApiError:
    return ApiError(
        413,
        f"A request may have at most {limits.body_bytes:,} bytes; send a smaller image.",
        "too_large",
        headers={"Connection": "close"},
    )
