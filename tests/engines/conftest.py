"""An engine behind a server that is played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_engine import Start
from judge_server import Action, JudgeServer

from viscot_core.engines.openai import OpenAIEngine
from viscot_core.openai_api import waiting
from viscot_core.openai_api.options import ApiOptions


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """``start(script, **options) -> (engine, server)`` with short waits."""
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(waiting, "LONGEST_WAIT", 0.05)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    opened: list[tuple[OpenAIEngine, JudgeServer]] = []

    def begin(
        script: Callable[[int, dict[str, Any]], Action], **options: Any
    ) -> tuple[OpenAIEngine, JudgeServer]:
        resize, key = options.pop("resize", None), options.pop("key", None)
        if key:
            monkeypatch.setenv("OPENAI_API_KEY", key)
        server = JudgeServer(script).__enter__()
        settings = {"timeout": 30.0, "attempts": 3, "concurrency": 4, **options}
        engine = OpenAIEngine(server.url, "made-up", options=ApiOptions(**settings), resize=resize)
        opened.append((engine, server))
        return engine, server

    yield begin
    for engine, server in opened:
        engine.close()
        server.__exit__(None, None, None)
