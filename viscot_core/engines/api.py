"""Any OpenAI-compatible server as an engine: vLLM, SGLang, llama.cpp, transformers serve, hosted models.

Pictures travel as data URLs inside the messages, the crop as the second one. Calls run side by side, are
retried with growing waits (or as long as ``Retry-After`` says), and their replies are kept: the same request
is never paid for twice. What cannot be had now is a transient error of its prompt; a refused key stops all.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from viscot_core.engines.base import Generation, Request
from viscot_core.engines.codecs import Resize
from viscot_core.engines.messages import Messages
from viscot_core.engines.replies import Replies, default_cache
from viscot_core.errors import BudgetSpent, EngineError, UsageError
from viscot_core.prompts import TEMPLATES

KEY_VARIABLE = "OPENAI_API_KEY"
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Bounds of the first and of the longest random wait between attempts, seconds."""
LONGEST_RETRY_AFTER = 120.0
"""A server that asks for a longer pause leaves the prompt for another run."""
GIVE_UP_AFTER = 20
"""So many prompts in a row without a reply mean that the server is gone."""
PICTURE_TOKENS = 4096
"""What a picture is taken to cost before the server has counted one."""
TRANSIENT = (408, 409, 425, 429)


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens read and written."""

    read: float
    written: float

    def of(self, read: int, written: int) -> float:
        return (read * self.read + written * self.written) / 1e6


@dataclass(frozen=True)
class ApiOptions:
    """How a server is used. ``max_cost`` is in dollars and needs ``price``."""

    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    max_requests: int | None = None
    max_cost: float | None = None
    price: Price | None = None
    cache: Path | None = None
    """Folder of kept replies; None: ``$VISCOT_CACHE/replies`` or the user's cache folder."""

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise UsageError("--max-cost needs --price READ,WRITTEN in dollars for a million tokens each.")


@dataclass
class Spent:
    """What this process asked and was told."""

    requests: int = 0
    kept: int = 0
    retries: int = 0
    read: int = 0
    written: int = 0
    cost: float = 0.0


class _Fault(Exception):
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


class ApiEngine:
    """An ``Engine`` behind ``url`` (``http://HOST:PORT/v1``). Safe to call from several threads.

    ``resize`` gives the size a picture of another size is to be sent in (see ``Codec.resize``).

    Raises:
        UsageError: no key where the host needs one, or one that no key can be.
    """

    def __init__(
        self, url: str, model: str, *, options: ApiOptions | None = None, resize: Resize | None = None
    ) -> None:
        self.options = options or ApiOptions()
        self.url, self.name, self.resize = url.rstrip("/"), model, resize
        self.template = TEMPLATES["vicuna_v1"]  # for the record only: the server has its own
        self.spent = Spent()
        self._key = _key_for(self.url)
        self._client = httpx.Client(
            timeout=self.options.timeout,
            limits=httpx.Limits(max_connections=self.options.concurrency),
            follow_redirects=False,  # a redirect could carry the key away
        )
        self._openai = _openai_client(self.url, self._key, self._client)
        self._replies = Replies(self.options.cache or default_cache())
        self._pool = ThreadPoolExecutor(self.options.concurrency, thread_name_prefix="call")
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._not_before = 0.0
        self._in_a_row = 0
        self._booked: list[float] = []
        self._largest = 0
        self._stopped: Exception | None = None
        self._messages = Messages(resize, kept=4 * self.options.concurrency)

    @property
    def identity(self) -> dict[str, str]:
        """Where, who, and in which sizes: what can change the text as far as a client can know."""
        return {
            "engine": "api",
            "url": self.url,
            "model": self.name,
            "template": self.template.name,
            "sampling": "greedy",
            "resize": getattr(self.resize, "__name__", "none"),
        }

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in order, ``concurrency`` of them at a time.

        Raises:
            BudgetSpent: ``max_requests`` or ``max_cost`` is reached.
            EngineError: the key is refused, the model is unknown, or the server is gone.
        """
        return list(self._pool.map(self._one, requests))

    def close(self) -> None:
        """Let go of threads and connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _one(self, request: Request) -> Generation:
        body = self._body(request)
        key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        if (kept := self._replies.get(key)) is not None:
            with self._lock:
                self.spent.kept += 1
            return Generation(kept["text"], kept["tokens"], kept["finished"])
        try:
            said = self._ask(body)
        except _Fault as fault:
            self._count_fault(fault)
            return Generation("", 0, False, str(fault), transient=not fault.lasting)
        with self._lock:
            self._in_a_row = 0
        self._replies.put(key, {"text": said.text, "tokens": said.tokens, "finished": said.finished})
        return said

    def _count_fault(self, fault: _Fault) -> None:
        with self._lock:
            self._in_a_row += not fault.lasting
            if self._in_a_row >= GIVE_UP_AFTER:
                self._stopped = EngineError(
                    f"{self.url} gave no answer to {self._in_a_row} prompts in a row ({fault}); run the same "
                    "command again when it works."
                )
        if self._stopped:
            raise self._stopped

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": self._messages.of(request.rendered.turns, request.views),
        }
        if re.match(r"(o\d|gpt-5)", self.name):  # reasoning models: no temperature, thoughts count as reply
            return {**body, "max_completion_tokens": 16 * request.max_new_tokens}
        return {**body, "max_tokens": request.max_new_tokens, "temperature": 0}

    # -- calls ----------------------------------------------------------------------------------------

    def _ask(self, body: dict[str, Any]) -> Generation:
        """One reply, after as many attempts as it takes. Raises _Fault where there is none."""
        worst = self._worst(body)
        for attempt in range(1, self.options.attempts + 1):
            self._pause()
            self._reserve(worst)
            cost = worst  # what an interruption leaves booked
            try:
                said, cost = self._call(body)
                return said
            except _Fault as fault:
                cost = worst if fault.billed else 0.0
                wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)))
                too_long = fault.wait is not None and fault.wait > LONGEST_RETRY_AFTER
                if fault.lasting or too_long or attempt == self.options.attempts:
                    raise
                with self._lock:
                    self.spent.retries += 1
                    if fault.wait is not None:  # the limit is the account's: all calls wait
                        self._not_before = max(self._not_before, time.monotonic() + fault.wait)
            finally:
                with self._settled:
                    self._booked.remove(worst)
                    self.spent.cost += cost
                    self._settled.notify_all()
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _call(self, body: dict[str, Any]) -> tuple[Generation, float]:
        """One attempt: the text and its cost."""
        import openai

        try:
            reply = self._openai.chat.completions.create(**body)
            choice = reply.choices[0]
            text, finished = choice.message.content, choice.finish_reason == "stop"
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APITimeoutError as error:
            raise _Fault(f"no reply within {self.options.timeout:g} s", billed=True) from error
        except openai.APIConnectionError as error:
            raise _Fault(f"no connection ({error.__cause__ or error})") from error
        except (
            openai.OpenAIError,
            httpx.HTTPError,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
        ) as error:
            raise _Fault(f"the reply is no chat completion ({type(error).__name__})", billed=True) from error
        if not isinstance(text, str):
            raise _Fault("the reply holds no text", billed=True)
        read = reply.usage.prompt_tokens if reply.usage else 0
        written = reply.usage.completion_tokens if reply.usage else 0
        with self._lock:
            self.spent.read += read
            self.spent.written += written
            self._largest = max(self._largest, read)
        cost = self.options.price.of(read, written) if self.options.price and reply.usage else 0.0
        return Generation(text.strip(), written, finished), cost

    def _refusal(self, error: Any) -> Exception:
        """What an error status means: wait and try, this prompt never, or nothing at all."""
        status, words = int(error.status_code), self._words(error)
        if status in (401, 403):
            variable = f"the key in {KEY_VARIABLE}" if self._key else f"a missing key (set {KEY_VARIABLE})"
            return self._stop(EngineError(f"{self.url} refuses {variable}: HTTP {status}, {words}."))
        if status == 404:
            hint = "check the address and the model's name after #"
            return self._stop(EngineError(f"{self.url} knows no '{self.name}' (HTTP 404, {words}); {hint}."))
        if status in TRANSIENT or status >= 500:
            return _Fault(f"HTTP {status}", wait=_retry_after(error.response.headers))
        return _Fault(f"HTTP {status}, {words}", lasting=True)

    def _stop(self, error: Exception) -> Exception:
        self._stopped = error
        return error

    def _words(self, error: Any) -> str:
        """The server's own words, without the key, should it repeat it."""
        words = " ".join(str(error.message).split())[:200]
        return words.replace(self._key, "***") if self._key else words

    def _pause(self) -> None:
        while not self._stopped and (wait := self._not_before - time.monotonic()) > 0:
            time.sleep(min(wait + random.uniform(0, 0.1 * wait), 1.0))
        if self._stopped:
            raise self._stopped

    def _reserve(self, worst: float) -> None:
        """Book one request of at most ``worst`` dollars. Raises BudgetSpent where it might be too much."""
        limit, cost = self.options.max_requests, self.options.max_cost
        with self._settled:
            if limit is not None and self.spent.requests >= limit:
                raise BudgetSpent(f"--max-requests {limit} are used up")
            while cost is not None and self.spent.cost + sum(self._booked) + worst > cost:
                if not self._booked:
                    raise BudgetSpent(f"--max-cost {cost:g} is used up (${self.spent.cost:.4f} spent)")
                self._settled.wait()  # what is under way mostly costs less than it was booked with
            self.spent.requests += 1
            self._booked.append(worst)

    def _worst(self, body: dict[str, Any]) -> float:
        """The most a request can cost: every character a token, a picture as the largest prompt so far."""
        if self.options.price is None:
            return 0.0
        parts = [m["content"] for m in body["messages"]]
        texts = [p for p in parts if isinstance(p, str)]
        texts += [p["text"] for ps in parts if isinstance(ps, list) for p in ps if p["type"] == "text"]
        pictures = sum(p["type"] == "image_url" for ps in parts if isinstance(ps, list) for p in ps)
        read = sum(map(len, texts)) + pictures * max(self._largest, PICTURE_TOKENS)
        return self.options.price.of(read, body.get("max_tokens") or body["max_completion_tokens"])


def _key_for(url: str) -> str | None:
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    if key and not (key.isascii() and key.isprintable()):
        raise UsageError(f"{KEY_VARIABLE} holds characters no key has; copy it again.")
    if key is None and httpx.URL(url).host == "api.openai.com":
        raise UsageError(f"{KEY_VARIABLE} is not set; export your key, or name another server.")
    return key


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


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds a server asks to wait: a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
