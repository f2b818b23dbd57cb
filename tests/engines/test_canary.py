"""A server that reads prompts otherwise than the checkpoint it serves is found out before any question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from made_families import make

from viscot_core.engines.canary import CANARY
from viscot_core.engines.open import EngineOptions, open_engine
from viscot_core.errors import EngineError
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.zoo import BUNDLED_FOLDER


def _count(folder: Path = BUNDLED_FOLDER, *, thinking: bool = False) -> int:
    checkpoint = open_checkpoint(folder)
    processor = checkpoint.family.processor(checkpoint, thinking=thinking)
    return len(processor.render(CANARY, [(224, 224)] * 2, generate=True).ids)


@pytest.mark.parametrize("more", [0, 2])
def test_a_server_with_another_chat_template_is_refused(more: int) -> None:
    count = _count()
    with JudgeServer(lambda n, body: completion("x", tokens=(count + more, 1))) as server:
        server.models = [{"id": "other", "root": "/"}, {"id": "made-up", "root": str(BUNDLED_FOLDER)}]
        options = EngineOptions(f"{server.url}#made-up")
        if more:
            with pytest.raises(
                EngineError, match=rf"makes {count + 2} tokens .* makes {count}: it uses another"
            ):
                open_engine(options)
        else:
            assert open_engine(options).name == "made-up"
        (asked,) = server.requests
    assert asked["max_tokens"] == 1
    assert str(asked["messages"]).count("data:image") == 2


def test_a_template_that_opens_a_thought_by_itself_is_no_other_one(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")
    folder = make("qwen3.5", tmp_path)

    def answer(n: int, body: dict[str, Any]) -> Any:
        told = body.get("chat_template_kwargs", {}).get("enable_thinking", True)
        return completion("x", tokens=(_count(folder, thinking=told), 1))

    with JudgeServer(answer) as server:
        server.models = [{"id": "made-up", "root": str(folder)}]
        assert open_engine(EngineOptions(f"{server.url}#made-up")).name == "made-up"
        assert len(server.requests) == 1


@pytest.mark.parametrize("models", [None, [{"id": "made-up"}], [{"id": "made-up", "root": "org/name"}]])
def test_a_server_that_tells_no_folder_is_asked_nothing(models: list[dict[str, str]] | None) -> None:
    with JudgeServer(lambda n, body: completion("x")) as server:
        server.models = models
        open_engine(EngineOptions(f"{server.url}#made-up"))
        assert server.requests == []


def test_a_key_means_a_hosted_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with JudgeServer(lambda n, body: completion("x", tokens=(1, 1))) as server:
        server.models = [{"id": "made-up", "root": str(BUNDLED_FOLDER)}]
        open_engine(EngineOptions(f"{server.url}#made-up"))
        assert server.requests == []
