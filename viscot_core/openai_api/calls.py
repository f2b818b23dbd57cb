"""One call to an OpenAI-compatible server, whole or streamed, and what each way of failing means."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx

from viscot_core.engines.base import Request
from viscot_core.errors import EngineError
from viscot_core.openai_api.keys import OPENAI_KEY, openai_key, told
from viscot_core.openai_api.waiting import PASSING, retry_after

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Failures before a server has read the request; after any other it may charge for it."""


@dataclass(frozen=True)
class Reply:
    """A chat completion. ``tokens`` are those read and written, None where the server did not count."""

    text: str
    finished: bool
    tokens: tuple[int, int] | None


class Fault(Exception):
    """One call that brought no text."""

    def __init__(
        self, words: str, *, lasting: bool = False, billed: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(words)
        self.lasting = lasting
        """Another try will not help."""
        self.billed = billed
        """The server may have charged for it."""
        self.wait = wait
        """Seconds the server asks to wait."""


class Caller:
    """Speaks to ``url`` (``http://HOST:PORT/v1``) about ``model``.

    Raises:
        UsageError: no key where the host needs one, or one that no key can be.
    """

    def __init__(self, url: str, model: str, *, timeout: float, connections: int) -> None:
        self.url, self.model, self.timeout = url, model, timeout
        self._key = openai_key(url)
        self._http = httpx.Client(
            timeout=timeout,
            limits=httpx.Limits(max_connections=connections),
            follow_redirects=False,  # a redirect could carry the key away
        )
        self._completions = _openai_client(url, self._key, self._http).chat.completions

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def call(self, body: dict[str, Any], request: Request) -> Reply:
        """One attempt; streamed where the request wants to hear the text as it grows.

        Raises:
            Fault: no text, for a reason of this call.
            EngineError: no call can succeed: the key is refused, or the model unknown.
        """
        import openai

        try:
            if request.on_text is None:
                return _whole(self._completions.create(**body))
            return self._streamed(body, request.on_text, request.cancelled)
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APITimeoutError as error:
            raise Fault(f"no reply within {self.timeout:g} s", billed=True) from error
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, NEVER_SENT):
                raise Fault(f"no connection ({error.__cause__})") from error
            raise Fault(f"the connection broke ({error.__cause__ or error})", billed=True) from error
        except (
            openai.OpenAIError,
            httpx.HTTPError,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
        ) as error:
            raise Fault(f"the reply is no chat completion ({type(error).__name__})", billed=True) from error

    def _streamed(
        self, body: dict[str, Any], on_text: Callable[[str], None], cancelled: Callable[[], bool] | None
    ) -> Reply:
        text, finish, usage = "", None, None
        wish = {"stream": True, "stream_options": {"include_usage": True}}
        with self._completions.create(**body, **wish) as chunks:
            if "event-stream" not in chunks.response.headers.get("content-type", ""):  # it does not stream
                plain = json.loads(
                    chunks.response.read(), object_hook=lambda fields: SimpleNamespace(**fields)
                )
                return _whole(plain)
            for chunk in chunks:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    if choice.delta.content:
                        text += choice.delta.content
                        if not "\ud800" <= text[-1] <= "\udbff":  # the other half of a pair is still to come
                            on_text(_readable(text).strip())
                if cancelled is not None and cancelled():
                    return _reply(text, "cancelled", usage)
        if finish is None:
            raise Fault("the reply was cut off", billed=True)
        return _reply(text, finish, usage)

    def _refusal(self, error: Any) -> Exception:
        """What an error status means: wait and try, this prompt never, or nothing at all."""
        status, words = int(error.status_code), told(str(error.message), self._key)
        if status in (401, 403):
            variable = f"the key in {OPENAI_KEY}" if self._key else f"a missing key (set {OPENAI_KEY})"
            return EngineError(f"{self.url} refuses {variable}: HTTP {status}, {words}.")
        if status == 404:
            hint = "check the address and the model's name after #"
            return EngineError(f"{self.url} knows no '{self.model}' (HTTP 404, {words}); {hint}.")
        if status in PASSING:
            return Fault(f"HTTP {status}", wait=retry_after(error.response.headers.get("retry-after")))
        return Fault(f"HTTP {status}, {words}", lasting=True)


def _whole(completion: Any) -> Reply:
    choice = completion.choices[0]
    if not isinstance(choice.message.content, str):
        raise Fault("the reply holds no text", billed=True)
    return _reply(choice.message.content, choice.finish_reason, getattr(completion, "usage", None))


def _reply(text: str, finish: str, usage: Any) -> Reply:
    if finish == "content_filter":
        raise Fault("the server's content filter refused it", lasting=True, billed=True)
    tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else None
    return Reply(_readable(text).strip(), finish == "stop", tokens)


def _readable(text: str) -> str:
    """Surrogates, which JSON spells and no file holds: a pair becomes its character, half a one U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _openai_client(url: str, key: str | None, client: httpx.Client) -> Any:
    try:
        import openai
    except ModuleNotFoundError as error:
        raise EngineError("openai is not installed; get it with: pip install 'viscot[api]'") from error
    # A server of our own continues the turns as they stand; without this it would run its own chain.
    headers = {"X-Viscot-Strategy": "raw"}
    return openai.OpenAI(
        base_url=url, api_key=key or "none", http_client=client, max_retries=0, default_headers=headers
    )
