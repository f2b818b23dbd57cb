"""Money: a limit that holds with calls in flight, estimates that ask nothing, prices with their sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from judge_server import JudgeServer, completion
from made_judge import judged, some_pairs

from viscot_core.errors import UsageError
from viscot_core.openai_api.budget import Price
from viscot_core.score.base import JudgeOptions
from viscot_core.score.costs import built_in_prices, load_price
from viscot_core.score.openai import OpenAIJudge

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
        options = JudgeOptions(cache=tmp_path / "cache")
        judge = OpenAIJudge("made-up", base_url=server.url, price=Price(1, 2), options=options)
        estimate = judge.estimate(some_pairs(10))
        assert len(server.requests) == 4
    assert (estimate.pairs, estimate.cached, estimate.calls) == (10, 4, 6)
    assert estimate.cost == pytest.approx((estimate.tokens_in + 2 * estimate.tokens_out) / 1e6)
    assert 100 <= estimate.tokens_in / estimate.calls <= 160


def test_the_built_in_prices_say_where_and_when_they_were_read() -> None:
    prices = built_in_prices()
    assert len(prices) >= 10
    for model, price in prices.items():
        assert price.source.startswith("https://"), model
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", price.date), model
        assert 0 < price.input <= price.output, model


def test_a_model_has_its_own_price_or_none() -> None:
    def of(model: str) -> tuple[float, float] | None:
        price = load_price(model)
        return (price.input, price.output) if price else None

    assert of("gpt-4o-mini") == of("gpt-4o-mini-2024-07-18") == (0.15, 0.6)
    assert of("gpt-3.5-turbo-1106") == (1, 2)
    assert of("gpt-4o-2024-05-13") is None, "it cost twice its family's price"
    assert of("somebody/else") is None


def test_a_table_of_ones_own_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("models: {gpt-4o-mini: {input: 1, output: 2}, mine: {input: 0, output: 0}}")
    assert load_price("gpt-4o-mini", own) == Price(1, 2)
    assert load_price("mine", own) == Price(0, 0)
    assert load_price("gpt-4o", own) == load_price("gpt-4o")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "models: 3",
        "models: {m: 1}",
        "models: {m: {input: x, output: 1}}",
        "models: {m: {input: -1, output: 1}}",
        "models: {m: {input: .nan, output: 1}}",
        "a: [",
    ],
)
def test_a_malformed_table_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(UsageError, match=r"own\.yaml"):
        load_price("m", own)
