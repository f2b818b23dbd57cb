"""For the tests of judges behind an API: pairs to judge, and a judge pointed at a loopback server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from viscot_core.openai_api.budget import Price
from viscot_core.openai_api.replies import ReplyCache
from viscot_core.score.api import ApiJudge
from viscot_core.score.judges import JudgeOptions
from viscot_core.score.prompt import PromptBuilder
from viscot_core.score.verdicts import Outcome, Pair

KEY = "sk-secret-0123456789"


def some_pairs(count: int) -> list[Pair]:
    return [Pair(f"What number is on card {i}?", str(i), str(i + 1)) for i in range(count)]


def judged(
    url: str,
    pairs: list[Pair],
    tmp_path: Path,
    *,
    key: str | None = None,
    price: Price | None = None,
    **options: Any,
) -> tuple[ApiJudge, dict[Pair, Outcome]]:
    """The judge after a round over ``pairs``, and its outcomes; its cache lies under ``tmp_path``."""
    settings: dict[str, Any] = {"concurrency": 8, "timeout": 30.0, "attempts": 4} | options
    builder = PromptBuilder(json_mode=settings.get("json_mode", False))
    judge = ApiJudge(
        "made-up",
        base_url=url,
        key=key,
        price=price,
        prompt=builder,
        cache=ReplyCache(tmp_path / "cache"),
        options=JudgeOptions(**settings),
    )
    outcomes: dict[Pair, Outcome] = {}
    judge.judge(pairs, lambda pair, outcome: outcomes.__setitem__(pair, outcome))
    return judge, outcomes
