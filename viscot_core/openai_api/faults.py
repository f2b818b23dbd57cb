"""What each way of failing means for the next call: the one classification, for engines and judges alike."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any

import httpx

from viscot_core.addresses import takes_proxy
from viscot_core.openai_api.keys import OPENAI_KEY, redact
from viscot_core.openai_api.waiting import retry_after


class Kind(Enum):
    """What to do about a fault."""

    PASSING = "passing"
    """The server is busy or broken: try this call again later."""
    REQUEST = "request"
    """The server refuses this very request: go on with the others."""
    NAME = "name"
    """The server knows no such model or address: no call can succeed if none has succeeded yet."""
    ACCOUNT = "account"
    """The key is refused or the credit is used up: no call can succeed."""


class Fault(Exception):
    """One call that brought no reply.

    Attributes:
        kind: what to do about it.
        billed: the server may have worked, and charged, although no reply came back.
        wait: seconds the server asks to wait.
        status: of HTTP; 0 where none came.
    """

    def __init__(
        self, kind: Kind, words: str, *, billed: bool = False, wait: float | None = None, status: int = 0
    ) -> None:
        super().__init__(words)
        self.kind, self.billed, self.wait, self.status = kind, billed, wait, status


PASSING_STATUSES = frozenset((408, 409, 425, 429, *range(500, 600)))
_NO_CREDIT = re.compile(
    r"insufficient_(quota|credit|balance)|exceeded_current_quota|billing|arrearage|access_terminated"
)
"""Codes and types of an account that cannot pay: OpenAI's, and those of servers that speak its protocol."""
_NO_MODEL = re.compile(r"model_not_found|invalid_model")
_OF_CONTENT = re.compile(r"\b(image|file|media|attachment|document)s?\b(?!.*\bmodel\b)", re.IGNORECASE)
"""A 404 about what this request holds; any other is about the model or the address."""


def of_transport(error: httpx.HTTPError, url: str) -> Fault:
    """A call that came to no HTTP status."""
    words = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        way = ", through the proxy of the environment" if takes_proxy(url) else ""
        return Fault(Kind.PASSING, f"no connection to {url}{way} ({words})")
    # From here on the server may have read the request.
    if isinstance(error, httpx.TimeoutException):
        return Fault(Kind.PASSING, "the server did not answer in time", billed=True)
    return Fault(Kind.PASSING, f"the connection broke ({words})", billed=True)


def of_status(status: int, content: bytes, wait: str | None, key: str | None, model: str) -> Fault:
    """An HTTP status other than 200, with its body and its ``Retry-After`` header."""
    try:
        data = json.loads(content)
        data = data[0] if isinstance(data, list) else data
        # Some servers write the message at the top (vLLM before 0.10), or call it detail (FastAPI).
        error = data["error"] if "error" in data else (data.get("message") and data) or data.get("detail")
    except (ValueError, LookupError, TypeError, AttributeError):
        error = None
    return of_error(status, error, key, model, wait=retry_after(wait))


def of_error(status: int, error: Any, key: str | None, model: str, *, wait: float | None = None) -> Fault:
    """The ``error`` of a body, in whatever shape; streams have one without a status of their own (200)."""
    error = error if isinstance(error, dict) else {"message": error}
    codes = " ".join(str(error.get(name) or "") for name in ("code", "type")).lower()
    words = redact(str(error.get("message") or ""), key)
    said = f"HTTP {status}" + (f": {words}" if words else "")
    # What the account lacks counts before the status: OpenAI says it with 429, which otherwise passes.
    if status == 402 or _NO_CREDIT.search(codes):
        return Fault(Kind.ACCOUNT, f"the account has no credit left ({said})")
    of_content = status == 404 and _OF_CONTENT.search(words)
    if (status in (404, 405) and not of_content) or 300 <= status < 400 or _NO_MODEL.search(codes):
        where = f"check the address and the model's name '{model}'"
        return Fault(Kind.NAME, f"the server knows no such model or address; {where} ({said})")
    if status in (401, 403):
        what = f"refuses the key in {OPENAI_KEY}" if key else f"asks for a key; set {OPENAI_KEY}"
        return Fault(Kind.ACCOUNT, f"the server {what} ({said})")
    if "content_filter" in codes:
        return refused_by_filter()
    if status in PASSING_STATUSES or status == 200:
        return Fault(Kind.PASSING, f"the server is busy or broken ({said})", wait=wait, billed=status == 200)
    return Fault(Kind.REQUEST, f"the server refuses the request ({said})", status=status)


def refused_by_filter(*, billed: bool = False) -> Fault:
    """The server's content filter took the place of the reply."""
    return Fault(Kind.REQUEST, "the server's content filter refused it", billed=billed)


def refused_by_model(words: str) -> Fault:
    """The model refuses, which another try does not change."""
    return Fault(Kind.REQUEST, f"the model refuses: {redact(words, None)}", billed=True)


def only_thought() -> Fault:
    """The model ended its turn, and all that came is its thought: an empty answer would be invented."""
    words = "the reply holds a thought and no answer; check the server's reasoning parser"
    return Fault(Kind.REQUEST, words, billed=True)


def too_late(seconds: float) -> Fault:
    """The reply was still dripping in at the deadline of the call."""
    return Fault(Kind.PASSING, f"the server's reply took longer than {seconds:g} s", billed=True)


def too_large(limit: int) -> Fault:
    """No chat completion has so many bytes: another try would bring as many."""
    words = f"the server's reply is larger than {limit // 2**20} MB"
    return Fault(Kind.REQUEST, words, billed=True)


def unreadable() -> Fault:
    """A body that is not a chat completion, or only a part of one."""
    return Fault(Kind.PASSING, "the server's reply is not a complete chat completion", billed=True)
