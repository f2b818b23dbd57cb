"""What calls to a server may cost: booked before each call, never over the limit a user gave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from viscot_core.errors import BudgetSpent
from viscot_core.openai_api.limits import longest_reply

IMAGE_TOKENS = 4096
"""What an image is taken to cost before the server has counted one."""
MESSAGE_OVERHEAD = 12
"""Tokens a chat format adds to the words of a call."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, where they were read and when they held (a user may not say)."""

    input: float
    output: float
    source: str = ""
    date: str = ""

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Dollars for so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


@dataclass
class Usage:
    """What a client asked and got.

    Attributes:
        requests: sent, whatever became of them.
        calls: requests that brought a reply.
        cached: replies that were kept from earlier.
        retries: requests sent again after a passing fault.
        tokens_in, tokens_out: as the server counts them.
        cost: US dollars; None where the price is unknown.
        models: what the server calls its model.
        versions: what the server says of itself.
        capped: a limit on requests or dollars left something out.
    """

    requests: int = 0
    calls: int = 0
    cached: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    models: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    capped: bool = False


@dataclass
class Bill:
    """What one call costs in dollars: the most it can, until its reply is counted."""

    cost: float


class Budget:
    """At most ``max_requests`` calls and ``max_cost`` dollars, noted in ``usage``. Safe in threads."""

    def __init__(
        self, usage: Usage, max_requests: int | None, max_cost: float | None, price: Price | None
    ) -> None:
        self._usage = usage
        self._max_requests, self._max_cost, self._price = max_requests, max_cost, price
        self._settled = threading.Condition()
        self._booked: list[float] = []
        self._requests = 0
        # Room for calls that are announced but not made yet: the second turns of questions that are begun.
        self._held, self._held_cost = 0, 0.0
        self._spent = 0.0
        self._longest_prompt = 0
        if price is not None:
            usage.cost = 0.0

    @contextmanager
    def call(self, body: dict[str, Any], *, follow_ups: int = 0, reserved: int = 0) -> Iterator[Bill]:
        """Book one call with this body; what its bill says at the end is spent.

        Room for its ``follow_ups`` is held from its start on, unless it fails; ``reserved`` is how many held
        places it takes up itself. A call that could go over ``max_cost`` waits while others are under way:
        most cost less than was booked for them.

        Raises:
            BudgetSpent: there is no room for it, and waiting would not make any.
        """
        worst = self._worst(body)
        # A follow-up repeats the words and shows one more image: twice the first call is the most.
        ahead = 2 * worst * follow_ups
        self._reserve(worst, follow_ups, ahead, reserved)
        bill = Bill(worst)
        try:
            yield bill
        except BaseException:
            with self._settled:
                self._held, self._held_cost = self._held - follow_ups, self._held_cost - ahead
            raise
        finally:
            with self._settled:
                self._booked.remove(worst)
                self._spent += bill.cost
                if self._price is not None:
                    self._usage.cost = self._spent
                self._settled.notify_all()

    def count(self, bill: Bill, tokens_in: int, tokens_out: int) -> None:
        """Put a reply's tokens on its bill; where the server counts none, it stays the most it can be."""
        if not tokens_in:
            return
        with self._settled:
            self._longest_prompt = max(self._longest_prompt, tokens_in)
        bill.cost = self._price.cost(tokens_in, tokens_out) if self._price else 0.0

    def _reserve(self, worst: float, follow_ups: int, ahead: float, reserved: int) -> None:
        with self._settled:
            if taken := min(reserved, self._held):
                self._held_cost -= self._held_cost * taken / self._held
                self._held -= taken
            while not self._fits(1 + follow_ups, worst + ahead):
                self._settled.wait()
            self._requests += 1
            self._booked.append(worst)
            self._held, self._held_cost = self._held + follow_ups, self._held_cost + ahead

    def _fits(self, calls: int, worst: float) -> bool:
        """Whether the call may start now; raises BudgetSpent where waiting cannot help."""
        if self._max_requests is not None and self._requests + self._held + calls > self._max_requests:
            self._usage.capped = True
            if calls > self._max_requests:
                raise BudgetSpent(f"--max-requests {self._max_requests}: one question takes {calls} calls")
            raise BudgetSpent(f"--max-requests {self._max_requests} are used up")
        # Spent, the worst of all calls under way and announced, and the worst of this one: the limit holds
        # even if each costs the most it can.
        limit = self._max_cost
        if limit is None or self._spent + sum(self._booked) + self._held_cost + worst <= limit:
            return True
        # No call is under way that could turn out cheaper: waiting would never end.
        if not self._booked:
            self._usage.capped = True
            raise BudgetSpent(f"--max-cost {limit:g} is used up (${self._spent:.4f} spent)")
        return False

    def _worst(self, body: dict[str, Any]) -> float:
        """The most dollars a request can cost.

        No tokenizer in use makes more than one token of a byte; an image counts as the longest prompt so far.
        """
        if self._price is None:
            return 0.0
        parts = [m["content"] for m in body["messages"]]
        texts = [p for p in parts if isinstance(p, str)]
        texts += [p["text"] for ps in parts if isinstance(ps, list) for p in ps if p["type"] == "text"]
        sent = (body.get("tools"), *(message.get("tool_calls") for message in body["messages"]))
        texts += [json.dumps(tools) for tools in sent if tools]
        images = sum(p["type"] == "image_url" for ps in parts if isinstance(ps, list) for p in ps)
        tokens_in = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + MESSAGE_OVERHEAD
        tokens_in += images * max(self._longest_prompt, IMAGE_TOKENS)
        return self._price.cost(tokens_in, longest_reply(body))
