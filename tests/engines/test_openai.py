"""The engine behind a server: what it sends, what it does with every kind of fault, what it pays for."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from api_engine import IMAGE, Start, request
from judge_server import PASSING_FAULTS, Action, completion, error
from PIL import Image

from viscot_core.boxes.registry import smart_resize
from viscot_core.conversation import answer_turns
from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.engines.openai import OpenAIEngine
from viscot_core.errors import BudgetSpent, EngineError, UsageError
from viscot_core.images.view import crop
from viscot_core.openai_api import waiting
from viscot_core.openai_api.budget import Price
from viscot_core.openai_api.options import ApiOptions


def test_a_chain_is_sent_as_messages_with_the_crop_as_second_image(start: Start) -> None:
    engine, server = start(lambda *_: completion(" a word "))
    assert isinstance(engine, Engine)
    small = crop(IMAGE, (10, 10, 40, 30))
    turns = answer_turns("What is it?", "[0.1, 0.2, 0.3, 0.4]")
    (said,) = engine.generate([Request(turns, (IMAGE, small), 20)])
    assert (said.text, said.tokens, said.prompt_tokens, said.finished) == ("a word", 6, 120, True)
    body = server.requests[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("made-up", 20, 0)
    first, box, second = body["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    assert first["content"][1]["text"] == "What is it?"
    assert box == {"role": "assistant", "content": "[0.1, 0.2, 0.3, 0.4]"}
    assert second["content"][1]["text"] == turns[-1].text.removeprefix("<image>\n")
    for part, view in ((first["content"][0], IMAGE), (second["content"][0], small)):
        data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        assert list(Image.open(io.BytesIO(data)).getdata()) == list(view.image.getdata())
    assert "x-viscot-strategy: raw" in server.headers[0].lower()


def test_images_are_sent_in_the_size_the_server_leaves_alone(start: Start) -> None:
    engine, server = start(lambda *_: completion("x"), resize=smart_resize)
    engine.generate([request()])
    url = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (84, 56)
    assert engine.identity["resize"] == "smart_resize"


def test_order_and_concurrency(start: Start) -> None:
    engine, server = start(
        lambda _, body: completion(body["messages"][0]["content"][1]["text"].strip(), delay=0.3),
    )
    questions = [f"Question {number}?" for number in range(12)]
    assert [g.text for g in engine.generate([request(q) for q in questions])] == questions
    assert server.most_open == 4


def quick(fault: str) -> dict[str, float]:
    """Do not wait long for the one reply that never comes in time."""
    return {"timeout": 0.4} if fault == "stalled" else {}


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_passing_faults_are_tried_again(start: Start, name: str) -> None:
    engine, server = start(
        lambda number, _: PASSING_FAULTS[name] if number == 0 else completion("fine"), **quick(name)
    )
    (said,) = engine.generate([request()])
    assert (said.text, said.error) == ("fine", None)
    assert len(server.requests) == 2
    assert engine.usage.retries == 1


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_lasting_outages_leave_the_prompt_for_later(start: Start, name: str) -> None:
    engine, server = start(lambda *_: PASSING_FAULTS[name], **quick(name))
    (said,) = engine.generate([request()])
    assert said.transient and said.error and not said.text
    assert len(server.requests) == 3


def test_a_long_retry_after_is_not_waited_for(start: Start) -> None:
    engine, server = start(lambda *_: error(429, Retry_After="3600"))
    (said,) = engine.generate([request()])
    assert said.transient and said.error == "the server is busy or broken (HTTP 429: made up)"
    assert len(server.requests) == 1


@pytest.mark.parametrize("key", [None, "sk-secret"])
def test_a_refused_key_stops_at_once_and_names_the_variable(start: Start, key: str | None) -> None:
    engine, server = start(lambda *_: error(401, "bad key sk-secret"), concurrency=1, key=key)
    with pytest.raises(EngineError, match="OPENAI_API_KEY") as refusal:
        engine.generate([request(str(n)) for n in range(10)])
    assert len(server.requests) == 1
    assert not key or "sk-secret" not in str(refusal.value)


@pytest.mark.parametrize("threads", [8, 32])
@pytest.mark.parametrize("together", [True, False])
def test_an_account_without_credit_costs_the_calls_in_flight_and_says_why(
    start: Start, threads: int, together: bool
) -> None:
    """Asked for all at once, and one by one from many threads, as a benchmark asks a server."""
    words = "You exceeded your current quota, please check your plan and billing details."
    engine, server = start(
        lambda *_: error(429, words, "insufficient_quota"), attempts=6, concurrency=threads
    )
    requests = [request(str(n)) for n in range(100)]
    if together:
        with pytest.raises(EngineError) as stopped:
            engine.generate(requests)
    else:
        with ThreadPoolExecutor(threads) as pool, pytest.raises(EngineError) as stopped:
            list(pool.map(engine.generate, [[one] for one in requests]))
    assert words in str(stopped.value) and "no credit left" in str(stopped.value)
    assert len(server.requests) <= threads


def test_an_unknown_model_stops_at_once(start: Start) -> None:
    engine, _ = start(lambda *_: error(404, "no such model"))
    with pytest.raises(EngineError, match=r"knows no such model .*'made-up' \(HTTP 404: no such model"):
        engine.generate([request()])


def test_a_bad_prompt_fails_alone_and_for_good(start: Start) -> None:
    engine, server = start(
        lambda _, body: error(400, "too long") if "Bad" in str(body) else completion("fine")
    )
    bad, good = engine.generate([request("Bad?"), request("Good?")])
    assert bad.error and "HTTP 400" in bad.error and "too long" in bad.error and not bad.transient
    assert good.text == "fine"
    assert len(server.requests) == 2


def test_a_server_that_is_gone_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "GIVE_UP_AFTER", 5)
    engine, server = start(lambda *_: error(503), attempts=1, concurrency=1)
    with pytest.raises(EngineError, match="5 requests in a row got no reply"):
        engine.generate([request(str(n)) for n in range(30)])
    assert len(server.requests) == 5


def test_without_a_folder_no_reply_is_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another model may answer at the same address, under the same name, a moment later."""
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    engine, _ = start(lambda number, _: completion(f"model {number}"))
    assert [engine.generate([request()])[0].text for _ in range(2)] == ["model 0", "model 1"]
    assert engine.usage.cached == 0 and not list(tmp_path.rglob("*"))


def test_in_a_folder_a_reply_is_never_paid_for_twice(start: Start, tmp_path: Path) -> None:
    engine, server = start(lambda number, _: completion(f"reply {number}"), cache=tmp_path)
    first = engine.generate([request()])
    assert engine.generate([request()]) == first
    assert len(server.requests) == 1
    assert engine.generate([request(limit=21)])[0].text == "reply 1"
    assert engine.usage.cached == 1
    for file in tmp_path.rglob("*.json"):
        file.write_text('{"reply": "from 0.1.0", "tokens": 3, "finished": true}')
    assert engine.generate([request()]) == [Generation("from 0.1.0", 3, True)]
    for file in tmp_path.rglob("*.json"):
        file.write_text("{")
    assert engine.generate([request()])[0].text == "reply 2"


def test_requests_and_money_are_capped(start: Start) -> None:
    engine, server = start(lambda *_: completion("x"), max_requests=3, concurrency=1)
    said = engine.generate([request(str(n)) for n in range(9)])  # what was paid for is not lost
    assert [g.text for g in said if not g.error] == ["x"] * 3
    assert {g.error for g in said if g.transient} == {"--max-requests 3 are used up"}
    with pytest.raises(BudgetSpent, match="--max-requests 3"):
        engine.generate([request("more?")])
    assert len(server.requests) == 3
    price = Price(input=1000.0, output=0.0)  # 0.12 dollars a call by the server's count of 120 tokens
    engine, server = start(lambda *_: completion("x"), max_cost=5.0, price=price, concurrency=3)
    said = engine.generate([request(f"{n} other?") for n in range(99)])
    assert any("--max-cost 5" in (g.error or "") for g in said)
    with pytest.raises(BudgetSpent, match="--max-cost 5"):
        engine.generate([request("A very long question? " * 400)])
    assert engine.usage.cost is not None and 0.5 < engine.usage.cost <= 5.0
    assert engine.usage.cost == pytest.approx(0.12 * len(server.requests))
    with pytest.raises(UsageError, match="--price"):
        ApiOptions(max_cost=1.0)


def test_hosted_models_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        OpenAIEngine("https://api.openai.com/v1", "gpt")
    monkeypatch.setenv("OPENAI_API_KEY", "sk\u2026")
    with pytest.raises(UsageError, match="characters that no key has"):
        OpenAIEngine("http://localhost:1/v1", "x")


def test_what_a_server_does_not_count_costs_the_most_it_can(start: Start) -> None:
    engine, _ = start(
        lambda *_: Action(
            body=json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}).encode()
        ),
        max_cost=100.0,
        price=Price(input=0.0, output=1e6),
    )
    engine.generate([request(limit=20)])
    assert engine.usage.cost == 20.0


def test_requests_stay_under_their_limit_while_calls_wait_for_money(start: Start) -> None:
    price = Price(input=0.0, output=1e6)  # a call may cost 20 dollars, and costs 6
    engine, server = start(
        lambda *_: completion("x", delay=0.1), max_requests=3, max_cost=45.0, price=price, concurrency=8
    )
    engine.generate([request(str(n), limit=20) for n in range(8)])
    assert len(server.requests) == 3


@pytest.mark.parametrize(("reset", "cost"), [(True, 20.0), (False, 0.0)])
def test_what_a_server_may_have_worked_on_is_paid_for(start: Start, reset: bool, cost: float) -> None:
    script = Action(reset=True) if reset else error(503)
    price = Price(input=0.0, output=1e6)
    engine, _ = start(lambda *_: script, max_cost=100.0, price=price, attempts=1)
    (said,) = engine.generate([request(limit=20)])
    assert said.transient and engine.usage.cost == cost
