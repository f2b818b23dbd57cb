"""One round of API calls: workers that share an iterator of pairs, retries, pace, money.

A worker takes a pair, looks into the cache, asks as often as the fault allows, and hands the outcome on.
Faults of one item leave it pending or failed; a fault of every item stops all workers.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import orjson

from viscot_core.errors import EngineError
from viscot_core.openai_api import waiting
from viscot_core.openai_api.messages import longest_reply
from viscot_core.openai_api.replies import request_key
from viscot_core.score.chat import Fault, Kind, Reply, call
from viscot_core.score.costs import Budget, most_tokens
from viscot_core.score.judges import Done
from viscot_core.score.verdicts import Outcome, Pair, State

if TYPE_CHECKING:
    from viscot_core.score.api import ApiJudge


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


class Session:
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
            body = self.judge.body(pair)
            key = request_key(self.judge.base_url, body)
            if outcome := self.judge.remembered(key):
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
            self.done(pair, self.judge.read(key, reply))

    def _faulted(self, pair: Pair, fault: Fault) -> None:
        words = str(fault)
        self.in_a_row += fault.kind is Kind.RETRY  # a refusal of one item is an answer: the server works
        if fault.kind is Kind.STOP:
            self.stop = self.stop or words
            return
        state = State.FAILED if fault.kind is Kind.ITEM else State.PENDING
        self.done(pair, Outcome(state, reason=words))
        if self.in_a_row >= waiting.GIVE_UP_AFTER:
            self.stop = (
                self.stop or f"{self.in_a_row} answers in a row got no reply, the last because {words}"
            )

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Reply | None:
        """One reply, after as many attempts as it takes; None when the budget is spent or the judge quit."""
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
        """Seconds until the next attempt: full jitter, or what the server asks for; None: give up."""
        if fault.kind is not Kind.RETRY or attempt >= self.judge.options.attempts:
            return None
        jitter = waiting.between(attempt)
        if fault.retry_after is None:
            return jitter
        if fault.retry_after > waiting.LONGEST_RETRY_AFTER:
            return None
        self.not_before = max(self.not_before, time.monotonic() + fault.retry_after)
        return fault.retry_after + jitter

    async def _pause(self) -> None:
        """When one call was told to wait, all wait: the limit is the account's."""
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(waiting.spread(wait))

    def _worst_cost(self, body: dict[str, Any]) -> float:
        if self.judge.price is None:
            return 0.0
        return self.judge.price.cost(most_tokens(words_of(body)), longest_reply(body))

    def _count(self, reply: Reply, worst: float) -> float:
        """Book a reply; returns its cost, the worst one where the server counts no tokens."""
        self.usage.calls += 1
        self.usage.tokens_in += reply.tokens_in
        self.usage.tokens_out += reply.tokens_out
        if reply.model:
            self.usage.models.add(reply.model)
        if self.judge.price is None or not reply.tokens_in:
            return worst
        return self.judge.price.cost(reply.tokens_in, reply.tokens_out)


def words_of(body: dict[str, Any]) -> str:
    """All a judge reads in a request."""
    return "".join(message["content"] for message in body["messages"])
