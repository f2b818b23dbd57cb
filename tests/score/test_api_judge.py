"""The API judge against a server that fails in every way: nothing lost, nothing turned into a zero."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from judge_server import PASSING_FAULTS, Action, JudgeServer, Script, completion, error
from made_runs import sample_run

from viscot_core.errors import EngineError, UsageError
from viscot_core.score import session
from viscot_core.score.api import ApiJudge
from viscot_core.score.cache import ReplyCache
from viscot_core.score.costs import Budget, Price, load_price
from viscot_core.score.judges import JudgeOptions, make_judge
from viscot_core.score.prompt import PromptBuilder
from viscot_core.score.run import score_run
from viscot_core.score.verdicts import Outcome, Pair, State, read_scores

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_WAIT", 0.005)


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


# -- faults that pass ---------------------------------------------------------------------------------

GOOD = '{"score": 0.5}'


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
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    cache = ReplyCache(tmp_path / "cache")
    options = JudgeOptions(attempts=2)
    report = score_run(run, ApiJudge("m", base_url=nobody, cache=cache, options=options))
    assert report.states[State.PENDING] == report.items
    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        report = score_run(run, ApiJudge("m", base_url=server.url, cache=cache, options=options))
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


def test_when_every_request_is_refused_it_stops_early(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: error(400, "temperature is not supported")) as server:
        with pytest.raises(EngineError, match=r"20 answers in a row.*temperature is not supported"):
            judged(server.url, some_pairs(500), tmp_path)
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
        assert (outcome.state, outcome.score) == (State.UNSCORED, None)
        assert reason in (outcome.reason or "")


def test_a_value_outside_0_to_1_is_cut_and_counted(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    with JudgeServer(lambda number, body: completion("score: 7")) as server:
        judge = ApiJudge("m", base_url=server.url, cache=ReplyCache(tmp_path / "cache"))
        report = score_run(run, judge)
    assert report.clipped == report.items
    assert {v.outcome.score for v in read_scores(report.path).verdicts.values()} == {1.0}


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
        cache = ReplyCache(tmp_path / "cache")
        for _ in range(5):
            judge = ApiJudge(
                "m", base_url=server.url, cache=cache, options=JudgeOptions(attempts=3, timeout=30)
            )
            report = score_run(run, judge)
    assert report.states[State.SCORED] == report.items == 180
    assert {v.outcome.score for v in read_scores(report.path).verdicts.values()} == {0.25}


# -- retries, pace, concurrency -----------------------------------------------------------------------


def test_no_more_calls_at_once_than_allowed(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 1", delay=0.02)) as server:
        judged(server.url, some_pairs(40), tmp_path, concurrency=5)
        assert server.most_open == 5


def test_retry_after_holds_all_calls_back(tmp_path: Path) -> None:
    import time

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


# -- cache --------------------------------------------------------------------------------------------


def test_runs_share_the_cache_and_equal_pairs_are_asked_once(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 0.5")) as server:
        judged(server.url, some_pairs(10), tmp_path)
        judge, outcomes = judged(server.url, some_pairs(12), tmp_path)
        assert len(server.requests) == 12
    assert (judge.usage.cached, judge.usage.calls, len(outcomes)) == (10, 2, 12)


def test_a_cache_file_cut_in_half_is_asked_again(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 0.5")) as server:
        judged(server.url, some_pairs(6), tmp_path)
        files = sorted((tmp_path / "cache").rglob("*.json"))
        for file, junk in zip(files, (b"", b"{", b"[]", b"null", b'{"reply": 3}', None), strict=True):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if junk is None else junk)
        judge, outcomes = judged(server.url, some_pairs(6), tmp_path)
    assert judge.usage.calls == 6
    assert judge._cache.damaged == 6
    assert {o.score for o in outcomes.values()} == {0.5}
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_an_unreadable_reply_is_not_kept(tmp_path: Path) -> None:
    replies = ["who knows", "score: 0.5"]
    with JudgeServer(lambda number, body: completion(replies[number])) as server:
        run = sample_run(tmp_path / "run", items=1, strategies=("cot",))
        for again in (False, True):
            judge = ApiJudge("m", base_url=server.url, cache=ReplyCache(tmp_path / "cache"))
            report = score_run(run, judge, retry_unscored=again)
            assert report.states[State.SCORED] == again


def test_another_prompt_temperature_or_address_is_another_entry(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion(GOOD)) as server:
        for options in ({}, {"temperature": 0.7}, {"json_mode": True}):
            judged(server.url, some_pairs(1), tmp_path, **options)
        assert len(server.requests) == 3


# -- money --------------------------------------------------------------------------------------------

DEAR = Price(input=1000.0, output=1000.0)


def test_the_cap_holds_with_many_calls_in_flight(tmp_path: Path) -> None:
    """120 + 6 tokens at 0.001 dollars each: 0.126 a call; never over the cap, the rest stays pending."""
    with JudgeServer(lambda number, body: completion("score: 1", delay=0.01)) as server:
        judge, outcomes = judged(server.url, some_pairs(200), tmp_path, price=DEAR, max_cost=5.0)
        paid = 0.126 * len(server.requests)
    assert judge.usage.capped
    assert judge.usage.cost == pytest.approx(paid)
    assert 5.0 - 1.2 <= paid <= 5.0
    assert len(outcomes) == len(server.requests)


def test_calls_without_a_reply_count_at_their_worst(tmp_path: Path) -> None:
    """A server that stalls may still charge: it must not eat through the cap unseen."""
    with JudgeServer(lambda number, body: completion("score: 1", delay=1)) as server:
        judge, _ = judged(server.url, some_pairs(50), tmp_path, price=DEAR, max_cost=3.0, timeout=0.1)
        assert len(server.requests) <= 4
    assert judge.usage.capped


def test_a_server_that_counts_no_tokens_is_booked_at_the_worst(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 1", tokens=(0, 0))) as server:
        judge, _ = judged(server.url, some_pairs(100), tmp_path, price=DEAR, max_cost=3.0)
        assert len(server.requests) <= 4
    assert judge.usage.cost and judge.usage.cost <= 3.0


def test_the_estimate_asks_nothing(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        judged(server.url, some_pairs(4), tmp_path)
        judge = ApiJudge("m", base_url=server.url, price=Price(1, 2), cache=ReplyCache(tmp_path / "cache"))
        judge.model = "made-up"
        estimate = judge.estimate(some_pairs(10))
        assert len(server.requests) == 4
    assert (estimate.pairs, estimate.cached, estimate.calls) == (10, 4, 6)
    assert estimate.cost == pytest.approx((estimate.tokens_in + 2 * estimate.tokens_out) / 1e6)
    assert 100 <= estimate.tokens_in / estimate.calls <= 160


def test_a_reservation_waits_for_calls_in_flight() -> None:
    async def story() -> list[bool]:
        budget = Budget(1.0)
        assert await budget.reserve(0.8)
        waiting = asyncio.create_task(budget.reserve(0.8))
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.settle(0.8, 0.1)
        return [await waiting, await asyncio.wait_for(_refused(budget), 1)]

    async def _refused(budget: Budget) -> bool:
        budget.settle(0.8, 0.8)
        return await budget.reserve(0.8)

    assert asyncio.run(story()) == [True, False]


def test_prices(tmp_path: Path) -> None:
    assert load_price("gpt-4o-mini") == Price(0.15, 0.6)
    assert load_price("gpt-4o-mini-2024-07-18") == Price(0.15, 0.6)
    assert load_price("gpt-3.5-turbo-1106") == Price(1, 2)
    assert load_price("somebody/else") is None
    own = tmp_path / "own.yaml"
    own.write_text("models: {gpt-4o-mini: {input: 1, output: 2}, mine: {input: 0, output: 0}}")
    assert load_price("gpt-4o-mini", own) == Price(1, 2)
    assert load_price("mine", own) == Price(0, 0)
    for wrong in (
        "[]",
        "models: 3",
        "models: {m: {input: x, output: 1}}",
        "models: {m: {input: -1, output: 1}}",
        "a: [",
    ):
        own.write_text(wrong)
        with pytest.raises(UsageError):
            load_price("m", own)


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
    replies = [GOOD, "score: 0.5", '{"score": "high"}', '{"score": true}', '{"score": NaN}', '{"score": 3}']
    with JudgeServer(lambda number, body: completion(replies[number])) as server:
        _, outcomes = judged(server.url, some_pairs(len(replies)), tmp_path, json_mode=True, concurrency=1)
        assert server.requests[0]["response_format"] == {"type": "json_object"}
    assert [o.score for o in outcomes.values()] == [0.5, None, None, None, None, 1.0]


def test_reasoning_models_get_no_temperature(tmp_path: Path) -> None:
    judge = ApiJudge("gpt-5-mini", cache=ReplyCache(tmp_path))
    body = judge.body(some_pairs(1)[0])
    assert "temperature" not in body
    assert "max_completion_tokens" in body
    assert judge.identity.temperature is None
