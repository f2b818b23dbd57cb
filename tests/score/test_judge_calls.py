"""What the API judge sends: the reference's words, the key in a header only, never too many calls at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion, error
from made_judge import KEY, judged, some_pairs
from made_runs import sample_run

from viscot_core.errors import EngineError, UsageError
from viscot_core.score.base import JudgeOptions
from viscot_core.score.judges import make_judge
from viscot_core.score.openai import OpenAIJudge
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import Pair, State, score_files

# -- retries, pace, concurrency -----------------------------------------------------------------------


def test_no_more_calls_at_once_than_allowed(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 1", delay=0.02)) as server:
        judged(server.url, some_pairs(40), tmp_path, concurrency=5)
        assert server.most_open == 5


def test_retry_after_holds_all_calls_back(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Action:
        return error(429, Retry_After="0.5") if number == 0 else completion("score: 1", delay=0.05)

    started = time.monotonic()
    with JudgeServer(script) as server:
        judged(server.url, some_pairs(12), tmp_path, concurrency=2)
    assert time.monotonic() - started >= 0.5


def test_a_pause_of_an_hour_is_not_waited_for(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: error(429, Retry_After="3600")) as server:
        _, outcomes = judged(server.url, some_pairs(2), tmp_path)
    assert {o.state for o in outcomes.values()} == {State.PENDING}


# -- the key ------------------------------------------------------------------------------------------


def test_the_key_is_sent_as_bearer_and_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run = sample_run(tmp_path / "run", items=3)
    with JudgeServer(
        lambda number, body: error(401, "bad key " + KEY) if number > 1 else completion("score: 1")
    ) as server:
        options = JudgeOptions(base_url=server.url, cache=tmp_path / "cache", concurrency=1)
        with pytest.raises(EngineError) as caught:
            score_run(run, make_judge("openai:m", options))
        assert f"authorization: bearer {KEY}" in server.headers[0].lower()
    assert KEY not in str(caught.value)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def test_without_a_key_the_message_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        make_judge("openai:gpt-4o-mini", JudgeOptions())
    with pytest.raises(UsageError, match="--prices"):
        make_judge("openai:unheard-of", JudgeOptions(base_url="http://127.0.0.1:1/v1", max_cost=1))
    with pytest.raises(UsageError, match="--base-url"):
        make_judge("openai:m", JudgeOptions(base_url="127.0.0.1"))


# -- words --------------------------------------------------------------------------------------------


def test_the_request_is_the_references_word_for_word(shared: Path, tmp_path: Path) -> None:
    golden = json.loads((shared / "golden/scoring/judge_requests.json").read_text())
    pairs = [Pair(r["question_text"], r["gt_answer_text"], r["pred_answer_text"]) for r in golden["results"]]
    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        judged(server.url, pairs, tmp_path, concurrency=1)
        assert [r["messages"] for r in server.requests] == [r["json"]["messages"] for r in golden["requests"]]


def test_json_mode_asks_for_json_and_reads_nothing_else(tmp_path: Path) -> None:
    replies = [
        '{"score": 0.5}',
        "score: 0.5",
        '{"score": "high"}',
        '{"score": true}',
        '{"score": NaN}',
        '{"score": 3}',
    ]
    with JudgeServer(lambda number, body: completion(replies[number])) as server:
        _, outcomes = judged(server.url, some_pairs(len(replies)), tmp_path, json_mode=True, concurrency=1)
        assert server.requests[0]["response_format"] == {"type": "json_object"}
    assert [o.score for o in outcomes.values()] == [0.5, None, None, None, None, None]


def test_reasoning_models_get_no_temperature() -> None:
    judge = OpenAIJudge("gpt-5-mini")
    body = judge.body(some_pairs(1)[0])
    assert "temperature" not in body
    assert "max_completion_tokens" in body
    assert judge.identity.temperature is None


def test_the_users_fields_make_another_judge_and_are_not_written(tmp_path: Path) -> None:
    """Their digest is in the file; a file of a plain judge is as it was and goes on."""
    run, own = sample_run(tmp_path / "run", items=2), {"temperature": 0.5, "top_k": 3, "token": "hidden-word"}

    def judge(url: str, **fields: object) -> OpenAIJudge:
        return OpenAIJudge("made-up", base_url=url, options=JudgeOptions(extra_body=fields))

    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        score_run(run, judge(server.url))
        with pytest.raises(UsageError, match=r"another judge .*temperature 0, now .*temperature 0\.5, extra"):
            score_run(run, judge(server.url, **own))
        assert score_run(run, judge(server.url)).new == 0
        score_run(run, judge(server.url, **own), name="own")
        with pytest.raises(UsageError, match="another judge"):
            score_run(run, judge(server.url, **own | {"top_k": 4}), name="own")
        assert score_run(run, judge(server.url, **dict(reversed(own.items()))), name="own").new == 0
    plain, other = (
        json.loads(path.read_text().splitlines()[0])["judge"] for path in score_files(run).values()
    )
    assert (plain["temperature"], "extra_sha256" in plain) == (0.0, False)
    assert (other["temperature"], len(other["extra_sha256"])) == (0.5, 64)
    assert "hidden-word" not in score_files(run)["own"].read_text()


@pytest.mark.parametrize(
    ("model", "fields", "temperature"),
    [("m", {"temperature": None}, None), ("m", {"top_k": 1}, 0.0), ("gpt-5-mini", {"temperature": 1}, 1.0)],
)
def test_the_temperature_is_the_one_that_is_sent(
    model: str, fields: dict[str, Any], temperature: float | None
) -> None:
    judge = OpenAIJudge(model, options=JudgeOptions(extra_body=fields))
    assert judge.identity.temperature == temperature == judge.body(some_pairs(1)[0]).get("temperature")
