"""The API judge against a server that fails in every way: nothing lost, nothing turned into a zero."""

from __future__ import annotations

import random
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from judge_server import PASSING_FAULTS, Action, JudgeServer, Script, completion, error
from made_judge import KEY, judged, some_pairs
from made_runs import sample_run

from viscot_core.errors import EngineError
from viscot_core.openai_api import waiting
from viscot_core.score.base import JudgeOptions
from viscot_core.score.openai import OpenAIJudge
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import State, read_scores, scores_path

# -- faults that pass ---------------------------------------------------------------------------------


def patience(fault: str) -> float:
    """Seconds to wait for a reply: short only where stalling is tested, so that a busy machine passes."""
    return 0.4 if fault == "stalled" else 30.0


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_a_passing_fault_is_tried_again_and_nothing_is_lost(name: str, tmp_path: Path) -> None:
    """Every third request fails; all 30 pairs end with the judge's score."""

    def script(number: int, body: dict[str, Any]) -> Action:
        return PASSING_FAULTS[name] if number % 3 == 0 else completion("score: 0.5")

    with JudgeServer(script) as server:
        judge, outcomes = judged(server.url, some_pairs(30), tmp_path, attempts=20, timeout=patience(name))
    assert Counter(o.state for o in outcomes.values()) == {State.SCORED: 30}
    assert {o.score for o in outcomes.values()} == {0.5}
    assert judge.usage.retries >= 10


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_a_fault_that_stays_leaves_the_item_pending_never_zero(name: str, tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: PASSING_FAULTS[name]) as server:
        _, outcomes = judged(server.url, some_pairs(3), tmp_path, attempts=2, timeout=patience(name))
    assert [(o.state, o.score) for o in outcomes.values()] == [(State.PENDING, None)] * 3
    assert all(o.reason for o in outcomes.values())


def test_refused_then_up(tmp_path: Path) -> None:
    """No server at first: the pairs stay pending; the same run later gets them all."""
    run = sample_run(tmp_path / "run", items=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    judge = OpenAIJudge("m", base_url=f"http://127.0.0.1:{port}/v1", options=JudgeOptions(attempts=2))
    report = score_run(run, judge)
    assert report.states[State.PENDING] == report.items
    with JudgeServer(lambda number, body: completion("score: 1"), port):
        report = score_run(run, judge)
    assert report.complete
    assert report.states[State.SCORED] == report.items


# -- faults that stay ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (error(401, "Incorrect API key provided: " + KEY), "refuses the key"),
        (error(403), "refuses the key"),
        (error(404, "The model `made-up` does not exist", "model_not_found"), "no such model"),
        (error(429, "You exceeded your current quota", "insufficient_quota"), "no credit"),
        (Action(301, b"", {"Location": "http://127.0.0.1:9/"}), "no such model or address"),
    ],
)
def test_a_fault_of_every_call_stops_at_once(action: Action, words: str, tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: action) as server:
        with pytest.raises(EngineError, match=words) as caught:
            judged(server.url, some_pairs(500), tmp_path, key=KEY)
        assert len(server.requests) <= 8
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("threads", [8, 32])
def test_without_credit_the_verdicts_in_hand_are_kept_and_the_servers_words_are_shown(
    threads: int, tmp_path: Path
) -> None:
    run = sample_run(tmp_path / "run", items=200, strategies=("cot",))
    words = "You exceeded your current quota, please check your plan and billing details."

    def script(number: int, body: dict[str, Any]) -> Action:
        return completion("score: 0.5") if number < 10 else error(429, words, "insufficient_quota")

    with JudgeServer(script) as server:
        judge = OpenAIJudge("m", base_url=server.url, options=JudgeOptions(concurrency=threads))
        with pytest.raises(EngineError) as caught:
            score_run(run, judge)
        assert len(server.requests) <= 10 + threads
    assert f"no credit left (HTTP 429: {words})" in str(caught.value)
    assert f"The judge at {server.url} cannot answer" in str(caught.value)
    verdicts = read_scores(scores_path(run, "openai:m")).verdicts.values()
    assert Counter(v.outcome.state for v in verdicts) == {State.SCORED: len(verdicts)}
    assert len(verdicts) >= 10


@pytest.mark.parametrize(
    "action", [error(400, "bad", "content_filter"), completion(None, finish="content_filter")]
)
def test_a_content_filter_fails_that_item_only(action: Action, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Action:
        return action if "card 3?" in body["messages"][1]["content"] else completion("score: 0.5")

    with JudgeServer(script) as server:
        _, outcomes = judged(server.url, some_pairs(10), tmp_path)
    assert Counter(o.state for o in outcomes.values()) == {State.SCORED: 9, State.FAILED: 1}
    (failed,) = [o for o in outcomes.values() if o.state is State.FAILED]
    assert failed.score is None
    assert "content filter" in (failed.reason or "")


def test_answers_that_are_refused_again_keep_no_other_from_its_score(tmp_path: Path) -> None:
    """More refusals in a row than faults that end a round: the server works, so the round goes on."""
    run = sample_run(tmp_path / "run", items=30, strategies=("cot",))
    refused = waiting.GIVE_UP_AFTER + 5

    def script(number: int, body: dict[str, Any]) -> Action:
        """The first round is refused whole; in the second, the answers behind the refused ones are not."""
        return completion("score: 0.5") if number >= 30 + refused else error(400, "too long")

    with JudgeServer(script) as server:
        judge = OpenAIJudge("m", base_url=server.url, options=JudgeOptions(concurrency=1))
        for scored in (0, 30 - refused):
            report = score_run(run, judge)
            assert (report.states[State.FAILED], report.states[State.SCORED]) == (30 - scored, scored)
            assert list(report.reasons) == ["the server refuses the request (HTTP 400: too long)"]
        assert len(server.requests) == 60


def test_when_no_call_gets_a_reply_it_stops_early(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: error(503, "overloaded")) as server:
        with pytest.raises(EngineError, match=r"20 requests in a row.*overloaded"):
            judged(server.url, some_pairs(500), tmp_path, attempts=1)
        assert len(server.requests) < 40


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("I would say it is fine."), "no score"),
        (completion("score: 0.2 ... score: 0.9"), "different scores"),
        (completion(""), "no score"),
        (completion(None), "no score"),
        (completion("score: 0", finish="length"), "cut off"),
    ],
)
def test_a_reply_without_one_score_is_unscored_with_its_reason(
    reply: Action, reason: str, tmp_path: Path
) -> None:
    with JudgeServer(lambda number, body: reply) as server:
        _, outcomes = judged(server.url, some_pairs(2), tmp_path)
    for outcome in outcomes.values():
        state = State.TRUNCATED if reason == "cut off" else State.UNSCORED
        assert (outcome.state, outcome.score) == (state, None)
        assert reason in (outcome.reason or "")


def test_a_value_outside_0_to_1_is_unscored_and_counted(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    with JudgeServer(lambda number, body: completion("score: 7")) as server:
        judge = OpenAIJudge("m", base_url=server.url, options=JudgeOptions(cache=tmp_path / "cache"))
        report = score_run(run, judge)
    assert report.states[State.UNSCORED] == report.items
    assert {v.outcome.score for v in read_scores(report.path).verdicts.values()} == {None}
    assert report.reasons == {"the score 7 is outside 0..1": report.items}


# -- storms -------------------------------------------------------------------------------------------


def storm(seed: int, rate: float = 0.35) -> Script:
    """Random faults of every passing kind."""
    rng = random.Random(seed)

    def script(number: int, body: dict[str, Any]) -> Action:
        if rng.random() < rate:
            return PASSING_FAULTS[rng.choice([n for n in PASSING_FAULTS if n != "stalled"])]
        return completion("score: 0.25")

    return script


def test_a_storm_loses_nothing_and_invents_nothing(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=60)
    with JudgeServer(storm(1)) as server:
        options = JudgeOptions(attempts=3, timeout=30, cache=tmp_path / "cache")
        for _ in range(5):
            report = score_run(run, OpenAIJudge("m", base_url=server.url, options=options))
    assert report.states[State.SCORED] == report.items == 180
    assert {v.outcome.score for v in read_scores(report.path).verdicts.values()} == {0.25}
