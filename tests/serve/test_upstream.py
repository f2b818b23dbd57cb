"""``viscot serve`` in front of another server: refusals pass, thoughts and cut answers stay what they are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion, error
from serve_help import Looker, Running, asks_for_box, question

from viscot_core.engines.base import Generation, Request
from viscot_core.engines.openai import OpenAIEngine
from viscot_core.openai_api.options import ApiOptions

Serve = Callable[..., Running]
DIRECT = {"viscot": {"strategy": "direct"}}


def test_a_server_that_refused_is_asked_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    refuses = True

    def script(number: int, body: dict[str, Any]) -> Action:
        return error(401) if refuses else completion("seven")

    with JudgeServer(script) as upstream:
        here = serve(OpenAIEngine(upstream.url, "made-up", options=ApiOptions(attempts=1)))
        batcher = here.server.batcher
        batcher._retry_seconds = 600
        assert here.get("/health").json()["status"] == "ok"
        statuses = {here.post(question(**DIRECT)).status_code for _ in range(4)}
        assert statuses == {503} and len(upstream.requests) == 1, "not asked again at once"
        health = here.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "failing"
        assert upstream.url not in health.text
        refuses = False
        batcher._retry_at = time.monotonic()  # the ten minutes are over
        health = here.get("/health")
        assert health.status_code == 200 and health.json()["status"] == "failing", "worth a try"
        reply = here.post(question(**DIRECT)).json()
        assert reply["choices"][0]["message"]["content"] == "seven"
        assert here.get("/health").json()["status"] == "ok"


def test_a_refusal_that_lasts_is_tried_only_now_and_then(serve: Serve) -> None:
    with JudgeServer(lambda *_: error(401)) as upstream:
        here = serve(OpenAIEngine(upstream.url, "made-up", options=ApiOptions(attempts=1)))
        here.server.batcher._retry_seconds = 600
        for tries in (1, 2, 3):
            for _ in range(3):
                assert here.post(question(**DIRECT)).status_code == 503
            assert len(upstream.requests) == tries
            here.server.batcher._retry_at = time.monotonic()


class Thinker(Looker):
    """Thinks before each of its turns; ``marks`` are written around the thought."""

    marks = ("<think>", "</think>")
    cut = False

    def _say(self, request: Request) -> Generation:
        said = super()._say(request)
        about = "where" if asks_for_box(request) else "what"
        text = f"{self.marks[0]}{about} [0.1, 0.1, 0.9, 0.9]{self.marks[1]}\n{said.text}"
        return Generation(text, 9, not self.cut, prompt_tokens=1, truncated=self.cut)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", ["cot", "direct", "raw"])
def test_a_thought_is_no_part_of_the_content(serve: Serve, strategy: str, stream: bool) -> None:
    here = serve(Thinker())
    reply = here.post(question(stream=stream, viscot={"strategy": strategy}))
    if stream:
        data = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
        chunks = [json.loads(line) for line in data[:-1]]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        content = "".join(delta.get("content") or "" for delta in deltas)
        thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
        field = chunks[-1]["viscot"]
    else:
        message = reply.json()["choices"][0]["message"]
        content, thought, field = message["content"], message["reasoning_content"], reply.json()["viscot"]
    assert content == ("seen 224 x 200" if strategy == "cot" else "seen 400 x 200")
    expected = "what [0.1, 0.1, 0.9, 0.9]"
    assert thought == ("where [0.1, 0.1, 0.9, 0.9]\n" if strategy == "cot" else "") + expected
    if strategy == "cot":
        assert field["box"] == [0.5, 0.25, 0.75, 0.5] and field["truncated"] is False


def test_a_thought_without_its_opening_mark_is_no_answer_in_a_stream(serve: Serve) -> None:
    engine = Thinker()
    engine.marks = ("", "</think>")
    here = serve(engine)
    message = here.post(question(**DIRECT)).json()["choices"][0]["message"]
    assert message["content"] == "seen 400 x 200" and message["reasoning_content"].startswith("what")
    lines = here.post(question(stream=True, **DIRECT)).text.splitlines()
    assert "the model's thought; ask without 'stream'" in lines[-4]


@pytest.mark.parametrize("strategy", ["cot", "direct", "raw"])
def test_a_cut_answer_ends_with_length(serve: Serve, strategy: str) -> None:
    engine = Thinker()
    engine.cut = True
    reply = serve(engine).post(question(viscot={"strategy": strategy})).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert strategy == "raw" or reply["viscot"]["truncated"] is True


def test_a_thought_that_was_cut_leaves_no_answer(serve: Serve) -> None:
    engine = Thinker()
    engine.marks, engine.cut = ("<think>", " and so on"), True
    choice = serve(engine).post(question(**DIRECT)).json()["choices"][0]
    assert choice["message"]["content"] == "" and choice["finish_reason"] == "length"
    assert choice["message"]["reasoning_content"].startswith("what")


def test_thoughts_and_cuts_of_an_upstream_server_pass_through(serve: Serve) -> None:
    said = completion("seven", finish="length")
    body = json.loads(said.body)
    body["choices"][0]["message"]["reasoning_content"] = "let me see"
    with JudgeServer(lambda *_: Action(body=json.dumps(body).encode())) as upstream:
        here = serve(OpenAIEngine(upstream.url, "made-up", options=ApiOptions(attempts=1)))
        choice = here.post(question(**DIRECT)).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == "seven" and choice["message"]["reasoning_content"] == "let me see"
