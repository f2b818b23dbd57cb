"""A judge behind an OpenAI-compatible API: many calls at once, retried, cached, and never over the cost cap.

The key comes from the environment only (``OPENAI_API_KEY``) and reaches nothing but the request's header.
Every verdict is handed on as it arrives, so that an interruption loses only the calls in flight, and
their replies are in the cache if they came.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import orjson

from viscot_core.errors import EngineError, UsageError
from viscot_core.score.cache import ReplyCache, default_cache, request_key
from viscot_core.score.chat import Fault, Kind, Reply, call
from viscot_core.score.costs import (
    TYPICAL_REPLY,
    Budget,
    Estimate,
    Price,
    estimated_tokens,
    load_price,
    most_tokens,
)
from viscot_core.score.judges import Done, JudgeOptions
from viscot_core.score.prompt import PromptBuilder
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State

OPENAI_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
MAX_REPLY_TOKENS = 256
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Bounds of the first and of the longest random wait between attempts, in seconds."""
LONGEST_RETRY_AFTER = 120.0
"""A server that asks for a longer pause leaves the item pending."""
GIVE_UP_AFTER = 20
"""So many items in a row without a reply mean that nothing works: stop and say so."""


@dataclass
class Usage:
    """What a judge used. Cost is None where the model's price is unknown."""

    calls: int = 0
    cached: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    models: set[str] = field(default_factory=set)
    """What the server said it is."""
    capped: bool = False
    """Stopped by the cost cap; the rest is pending."""


class ApiJudge:
    """See the module. Not reusable across event loops: ``judge`` runs its own."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str = OPENAI_URL,
        key: str | None = None,
        prompt: PromptBuilder | None = None,
        price: Price | None = None,
        cache: ReplyCache | None = None,
        options: JudgeOptions | None = None,
    ) -> None:
        self.options = options or JudgeOptions()
        self.model = model
        self.base_url = base_url.rstrip("/")
        self.prompt = prompt or PromptBuilder()
        self.usage = Usage(cost=0.0 if price else None)
        self._key, self._price = key, price
        self._cache = cache or ReplyCache(default_cache())
        # Reasoning models refuse a temperature and count their thoughts as part of the reply.
        self._reasons = bool(re.match(r"(o\d|gpt-5)", model))
        temperature = None if self._reasons else self.options.temperature
        self.identity = JudgeIdentity.now(f"openai:{model}", model, self.prompt.sha256, temperature)

    @classmethod
    def from_options(cls, model: str, options: JudgeOptions) -> Self:
        """Read key and address from the environment. Raises UsageError where the key or a price is missing."""
        base_url = options.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        key = os.environ.get(KEY_VARIABLE, "").strip() or None
        if not re.match(r"https?://[^/]", base_url):
            raise UsageError(f"--base-url {base_url} is no address; it looks like http://127.0.0.1:8000/v1.")
        if key is None and base_url.rstrip("/") == OPENAI_URL:
            raise UsageError(
                f"{KEY_VARIABLE} is not set; export your key, or point --base-url at your own server."
            )
        price = load_price(model, options.prices)
        if options.max_cost is not None and price is None:
            raise UsageError(
                f"--max-cost needs the price of '{model}', which no table knows; give one with --prices."
            )
        prompt = PromptBuilder(options.style, options.json_mode)
        cache = ReplyCache(options.cache or default_cache())
        return cls(
            model, base_url=base_url, key=key, prompt=prompt, price=price, cache=cache, options=options
        )

    def estimate(self, pairs: Sequence[Pair]) -> Estimate:
        """Calls, tokens and cost of judging ``pairs``, asking nothing."""
        cached = tokens = 0
        for pair in pairs:
            body = self._body(pair)
            if self._remembered(request_key(self.base_url, body)):
                cached += 1
            else:
                tokens += estimated_tokens(_text(body))
        replies = TYPICAL_REPLY * (len(pairs) - cached)
        return Estimate(
            len(pairs), cached, tokens, replies, self._price.cost(tokens, replies) if self._price else None
        )

    def judge(self, pairs: Sequence[Pair], done: Done) -> None:
        """Judge all pairs; see ``Judge``. Raises EngineError when the server cannot work for any of them."""
        asyncio.run(_Session(self, done).run(iter(pairs)))

    def _body(self, pair: Pair) -> dict[str, Any]:
        prompt = self.prompt.build(pair)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
        }
        if self._reasons:
            body["max_completion_tokens"] = 8 * MAX_REPLY_TOKENS
        else:
            body |= {"max_tokens": MAX_REPLY_TOKENS, "temperature": self.options.temperature}
        if self.prompt.json_mode:
            body["response_format"] = {"type": "json_object"}
        return body

    def _remembered(self, key: str) -> Outcome | None:
        """The score of a reply in the cache; a damaged or unreadable entry counts as none."""
        entry = None if self.options.fresh else self._cache.get(key)
        outcome = self.prompt.read(entry["reply"]) if entry else None
        return outcome if outcome and outcome.state is State.SCORED else None

    def _read(self, key: str, reply: Reply) -> Outcome:
        """The outcome of a fresh reply. Only scored ones are kept: asking about the others again may help."""
        if reply.finish == "length":
            return Outcome(State.UNSCORED, reason="the reply was cut off before its end", reply=reply.text)
        outcome = self.prompt.read(reply.text)
        if outcome.state is State.SCORED:
            self._cache.put(key, {"reply": reply.text, "model": reply.model})
        return outcome

    def client(self, tls: ssl.SSLContext) -> httpx.AsyncClient:
        """One connection with the key in its header; it follows no redirect, which could carry the key away."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return httpx.AsyncClient(
            base_url=self.base_url + "/",
            headers=headers,
            timeout=self.options.timeout,
            limits=httpx.Limits(max_connections=1),
            verify=tls,
        )

    def without_key(self, words: str) -> str:
        """A server's words, should it repeat the key in them."""
        return words.replace(self._key, "***") if self._key else words


class _Session:
    """One ``judge`` call: its workers, budget and faults."""

    def __init__(self, judge: ApiJudge, done: Done) -> None:
        self.judge, self.done, self.usage = judge, done, judge.usage
        self.budget = Budget(judge.options.max_cost)
        self.not_before = 0.0
        self.in_a_row = 0
        self.stop: str | None = None

    async def run(self, pairs: Iterator[Pair]) -> None:
        tls = ssl.create_default_context()
        workers = [asyncio.create_task(self._work(tls, pairs)) for _ in range(self.judge.options.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        if self.stop:
            raise EngineError(
                f"The judge cannot work: {self.stop}; what was scored is kept, run it again when that "
                "is mended."
            )

    async def _work(self, tls: ssl.SSLContext, pairs: Iterator[Pair]) -> None:
        """Take pairs from the shared iterator until it or the budget is empty.

        Each worker has a connection of its own: a shared pool looks at all of them for every call.
        """
        async with self.judge.client(tls) as client:
            await self._take(client, pairs)

    async def _take(self, client: httpx.AsyncClient, pairs: Iterator[Pair]) -> None:
        for pair in pairs:
            if self.stop or self.usage.capped:
                return
            body = self.judge._body(pair)
            key = request_key(self.judge.base_url, body)
            if outcome := self.judge._remembered(key):
                self.usage.cached += 1
                self.done(pair, outcome)
                continue
            try:
                reply = await self._ask(client, body)
            except Fault as fault:
                self._faulted(pair, fault)
                continue
            if reply is None:
                return
            self.in_a_row = 0
            self.done(pair, self.judge._read(key, reply))

    def _faulted(self, pair: Pair, fault: Fault) -> None:
        words = self.judge.without_key(str(fault))
        self.in_a_row += 1
        if fault.kind is Kind.STOP:
            self.stop = self.stop or words
            return
        state = State.FAILED if fault.kind is Kind.ITEM else State.PENDING
        self.done(pair, Outcome(state, reason=words))
        if self.in_a_row >= GIVE_UP_AFTER:
            self.stop = (
                self.stop or f"{self.in_a_row} answers in a row got no reply, the last because {words}"
            )

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Reply | None:
        """One reply, after as many attempts as it takes; None when the budget is spent or the judge stopped."""
        content = orjson.dumps(body)
        worst = self._worst_cost(body)
        for attempt in range(1, self.judge.options.attempts + 1):
            await self._pause()
            if self.stop or not await self._reserve(worst):
                return None
            spent = worst  # what an interruption leaves booked: the server may have charged for it
            try:
                reply = await call(client, content)
                spent = self._count(reply, worst)
                return reply
            except Fault as fault:
                spent = worst if fault.billed else 0.0
                self.usage.faults[str(fault).partition(" (")[0]] += 1
                wait = self._wait_after(fault, attempt)
                if wait is None:
                    raise
            finally:
                self._settle(worst, spent)
            self.usage.retries += 1
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _reserve(self, amount: float) -> bool:
        if await self.budget.reserve(amount):
            return True
        self.usage.capped = True
        return False

    def _settle(self, reserved: float, spent: float) -> None:
        self.budget.settle(reserved, spent)
        if self.usage.cost is not None:
            self.usage.cost = self.budget.spent

    def _wait_after(self, fault: Fault, attempt: int) -> float | None:
        """Seconds until the next attempt: full jitter, or what the server asks for. None: do not try again."""
        if fault.kind is not Kind.RETRY or attempt >= self.judge.options.attempts:
            return None
        jitter = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)))
        if fault.retry_after is None:
            return jitter
        if fault.retry_after > LONGEST_RETRY_AFTER:
            return None
        self.not_before = max(self.not_before, time.monotonic() + fault.retry_after)
        return fault.retry_after + jitter

    async def _pause(self) -> None:
        """When one call was told to wait, all wait: the limit is the account's."""
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait + random.uniform(0, 0.1 * wait))

    def _worst_cost(self, body: dict[str, Any]) -> float:
        if self.judge._price is None:
            return 0.0
        longest_reply = body.get("max_tokens") or body["max_completion_tokens"]
        return self.judge._price.cost(most_tokens(_text(body)), longest_reply)

    def _count(self, reply: Reply, worst: float) -> float:
        """Book a reply; returns its cost, the worst one where the server counts no tokens."""
        self.usage.calls += 1
        self.usage.tokens_in += reply.tokens_in
        self.usage.tokens_out += reply.tokens_out
        if reply.model:
            self.usage.models.add(reply.model)
        if self.judge._price is None or not reply.tokens_in:
            return worst
        return self.judge._price.cost(reply.tokens_in, reply.tokens_out)


def _text(body: dict[str, Any]) -> str:
    return "".join(message["content"] for message in body["messages"])
