"""How a user wants a server to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viscot_core.errors import UsageError
from viscot_core.openai_api.budget import Price


@dataclass(frozen=True)
class ApiOptions:
    """How a server is used.

    Attributes:
        concurrency: calls at once.
        timeout: seconds without a byte after which a call counts as stalled.
        attempts: tries per request where a fault may pass.
        max_requests, max_cost: limits of one client; ``max_cost`` is in dollars and needs ``price``.
        cache: folder of kept replies, for a server whose name stands for one model for good; None keeps none.
        fresh: ask again even where the cache holds a reply.
    """

    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    max_requests: int | None = None
    max_cost: float | None = None
    price: Price | None = None
    cache: Path | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise UsageError("--max-cost needs --price INPUT,OUTPUT in dollars for a million tokens each.")
