"""What calls to a server may cost: counted, booked before each call, never over the limit a user gave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from viscot_core.errors import BudgetSpent
from viscot_core.openai_api.messages import longest_reply

IMAGE_TOKENS = 4096
"""What an image is taken to cost before the server has counted one."""


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
class Spent:
    """What this process asked and was told."""

    requests: int = 0
    kept: int = 0
    retries: int = 0
    read: int = 0
    written: int = 0
    cost: float = 0.0


@dataclass
class Bill:
    """What one call costs in dollars: the most it can, until its reply is counted."""

    cost: float


class Budget:
    """At most ``max_requests`` calls and ``max_cost`` dollars. Safe to use from several threads."""

    def __init__(self, max_requests: int | None, max_cost: float | None, price: Price | None) -> None:
        self.spent = Spent()
        self._max_requests, self._max_cost, self._price = max_requests, max_cost, price
        self._settled = threading.Condition()
        self._booked: list[float] = []
        self._largest = 0

    @contextmanager
    def call(self, body: dict[str, Any]) -> Iterator[Bill]:
        """Book one call with this body; what its bill says at the end is spent.

        Raises:
            BudgetSpent: it might be too much.
        """
        worst = self._worst(body)
        self._reserve(worst)
        bill = Bill(worst)
        try:
            yield bill
        finally:
            with self._settled:
                self._booked.remove(worst)
                self.spent.cost += bill.cost
                self._settled.notify_all()

    def count(self, bill: Bill, read: int, written: int) -> None:
        """Put a reply's tokens on its bill."""
        with self._settled:
            self.spent.read += read
            self.spent.written += written
            self._largest = max(self._largest, read)
        bill.cost = self._price.cost(read, written) if self._price else 0.0

    def note(self, *, kept: int = 0, retries: int = 0) -> None:
        """Count replies that were kept already, and calls made again."""
        with self._settled:
            self.spent.kept += kept
            self.spent.retries += retries

    def _reserve(self, worst: float) -> None:
        with self._settled:
            while not self._fits(worst):
                self._settled.wait()  # what is under way mostly costs less than it was booked with
            self.spent.requests += 1
            self._booked.append(worst)

    def _fits(self, worst: float) -> bool:
        """Whether the call may start now; raises BudgetSpent where waiting cannot help."""
        if self._max_requests is not None and self.spent.requests >= self._max_requests:
            raise BudgetSpent(f"--max-requests {self._max_requests} are used up")
        limit = self._max_cost
        if limit is None or self.spent.cost + sum(self._booked) + worst <= limit:
            return True
        if not self._booked:
            raise BudgetSpent(f"--max-cost {limit:g} is used up (${self.spent.cost:.4f} spent)")
        return False

    def _worst(self, body: dict[str, Any]) -> float:
        """The most a request can cost: every character a token, an image as the largest prompt so far."""
        if self._price is None:
            return 0.0
        parts = [m["content"] for m in body["messages"]]
        texts = [p for p in parts if isinstance(p, str)]
        texts += [p["text"] for ps in parts if isinstance(ps, list) for p in ps if p["type"] == "text"]
        images = sum(p["type"] == "image_url" for ps in parts if isinstance(ps, list) for p in ps)
        read = sum(map(len, texts)) + images * max(self._largest, IMAGE_TOKENS)
        return self._price.cost(read, longest_reply(body))
