"""For the tests of judges behind an API: pairs to judge, and a judge pointed at a loopback server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from viscot_core.openai_api.budget import Price
from viscot_core.score.base import JudgeOptions
from viscot_core.score.openai import OpenAIJudge
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
) -> tuple[OpenAIJudge, dict[Pair, Outcome]]:
    """The judge after a round over ``pairs``, and its outcomes; its cache lies under ``tmp_path``."""
    fixed = {"concurrency": 8, "timeout": 30.0, "attempts": 4, "cache": tmp_path / "cache"}
    judge = OpenAIJudge(
        "made-up",
        base_url=url,
        key=key,
        price=price,
        options=JudgeOptions(**fixed | options),
    )
    outcomes: dict[Pair, Outcome] = {}
    judge.judge(pairs, lambda pair, outcome: outcomes.__setitem__(pair, outcome))
    return judge, outcomes
