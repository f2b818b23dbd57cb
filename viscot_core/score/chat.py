"""One call to an OpenAI-compatible chat endpoint, and what each way of failing means for the next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import httpx
import orjson

from viscot_core.openai_api.keys import told
from viscot_core.openai_api.waiting import PASSING, retry_after


class Kind(Enum):
    """What to do about a fault."""

    STOP = "stop"
    """No call can succeed (wrong key, unknown model): stop asking."""
    RETRY = "retry"
    """Passing: try this call again later."""
    ITEM = "item"
    """The server refuses this very request: go on with the others."""


class Fault(Exception):
    """A call that brought no reply."""

    def __init__(
        self, kind: Kind, message: str, *, retry_after: float | None = None, billed: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after
        """Seconds the server asks to wait."""
        self.billed = billed
        """The server may have worked, and charged, although no reply came back."""


@dataclass(frozen=True)
class Reply:
    """A chat completion: its words, why it ended, and the server's count of tokens (0 where it says none)."""

    text: str
    finish: str | None
    tokens_in: int
    tokens_out: int
    model: str


async def call(client: httpx.AsyncClient, body: bytes) -> Reply:
    """Post one request. Raises Fault for everything that is not a whole, readable completion."""
    try:
        response = await client.post("chat/completions", content=body)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Fault(Kind.RETRY, f"no connection to {client.base_url} ({_words(error)})") from error
    except httpx.TimeoutException as error:
        raise Fault(Kind.RETRY, "the server did not answer in time", billed=True) from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Fault(Kind.RETRY, f"the connection broke ({_words(error)})", billed=True) from error
    if response.status_code != 200:
        raise _refusal(response)
    return _reply(response.content)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _reply(content: bytes) -> Reply:
    try:
        data = orjson.loads(content)
        choice = data["choices"][0]
        message = choice["message"]
        text, finish = message.get("content"), choice.get("finish_reason")
        usage = data.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        model = str(data.get("model") or "")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Fault(Kind.RETRY, "the server's reply is no whole chat completion", billed=True) from error
    if finish == "content_filter":
        raise Fault(Kind.ITEM, "the server's content filter refused it", billed=True)
    return Reply(text if isinstance(text, str) else "", finish, *tokens, model)


def _refusal(response: httpx.Response) -> Fault:
    status, (code, words) = response.status_code, _error_words(response)
    said = f"HTTP {status}" + (f": {words}" if words else "")
    if code == "insufficient_quota":
        return Fault(Kind.STOP, f"the account has no credit left ({said})")
    if status in PASSING:
        wait = retry_after(response.headers.get("retry-after"))
        return Fault(Kind.RETRY, f"the server is busy or broken ({said})", retry_after=wait)
    if status in (401, 403):
        return Fault(Kind.STOP, f"the server refuses the key ({said})")
    if status in (404, 405) or 300 <= status < 400:
        return Fault(Kind.STOP, f"the server knows no such model or address ({said})")
    if code == "content_filter":
        return Fault(Kind.ITEM, "the server's content filter refused it")
    return Fault(Kind.ITEM, f"the server refuses the request ({said})")


def _error_words(response: httpx.Response) -> tuple[str, str]:
    """Code and message of an error body, in whatever shape, without the key that was sent."""
    try:
        error: Any = orjson.loads(response.content)["error"]
        code, message = (
            (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, error)
        )
    except (ValueError, LookupError, TypeError):
        code, message = None, ""
    key = response.request.headers.get("authorization", "").removeprefix("Bearer ")
    return str(code or ""), told(str(message or ""), key)
