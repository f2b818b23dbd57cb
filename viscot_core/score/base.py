"""What a judge is, and all that the command line says about one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from viscot_core.score.choices import PromptStyle
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair

Done = Callable[[Pair, Outcome], None]
"""Called once per pair, as soon as its outcome is known."""


class Judge(Protocol):
    """Anything that gives answers a score.

    ``judge`` calls ``done`` for every pair it comes to an outcome about and may stop early (a cost limit):
    pairs without a call stay pending. It raises ``EngineError`` when no pair can be judged at all.
    """

    identity: JudgeIdentity

    def judge(self, pairs: Sequence[Pair], done: Done) -> None: ...


@dataclass(frozen=True)
class JudgeOptions:
    """What the command line says about a judge that is a model; offline judges need none of it."""

    base_url: str | None = None
    concurrency: int = 32
    max_cost: float | None = None
    prices: Path | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    """Longest reply; None: as much as the kind of judge needs for a score."""
    timeout: float = 60.0
    attempts: int = 6
    style: PromptStyle = PromptStyle.PAPER
    json_mode: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the user's own for each request to a server."""
    cache: Path | None = None
    fresh: bool = False
    """Ask again even where the cache holds a reply."""
    batch_size: int = 8
    device: str = "auto"
    only_estimate: bool = False
    """Nothing will be sent, so no key is needed."""
