"""The engine behind a server: what it sends, what it does with every kind of fault, what it pays for."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import PASSING_FAULTS, Action, JudgeServer, completion, error
from PIL import Image

from viscot_core.boxes.registry import smart_resize
from viscot_core.conversation import answer_turns, direct_turns
from viscot_core.engines.base import Engine, Generation, Request, Sampling
from viscot_core.engines.openai import OpenAIEngine
from viscot_core.errors import BudgetSpent, EngineError, UsageError
from viscot_core.images.view import View, crop
from viscot_core.openai_api import waiting
from viscot_core.openai_api.budget import Price
from viscot_core.openai_api.options import ApiOptions

Start = Callable[..., tuple[OpenAIEngine, JudgeServer]]
IMAGE = View(Image.effect_noise((90, 60), 40).convert("RGB"), "noise")


def request(question: str = "What?", *, limit: int = 20) -> Request:
    return Request(direct_turns(question), (IMAGE,), limit)


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
        lambda *_: Action(body=json.dumps({"choices": [choice("message", content="x")]}).encode()),
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


@pytest.mark.parametrize("text", ["", "the beginning of"])
def test_a_filtered_reply_is_no_answer(start: Start, text: str) -> None:
    engine, server = start(lambda *_: completion(text, finish="content_filter"))
    (said,) = engine.generate([request()])
    assert said.error == "the server's content filter refused it" and not said.transient and not said.text
    assert len(server.requests) == 1


def test_surrogates_become_characters_that_files_can_hold(start: Start) -> None:
    engine, _ = start(lambda *_: completion("x\ud83d"))
    assert engine.generate([request()])[0].text == "x\ufffd"
    engine, _ = start(lambda *_: streamed("x\ud83d", "\ude00"))  # one character in two pieces
    told: list[str] = []
    (said,) = engine.generate([replace(request(), on_text=told.append)])
    assert (said.text, told) == ("x\U0001f600", ["x\U0001f600"])


def choice(where: str, finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    return {"index": 0, where: {"role": "assistant", **fields}, "finish_reason": finish}


def streamed(*words: str, finish: str | None = "stop", end: bytes = b"data: [DONE]\n\n") -> Action:
    """A reply in pieces, with its count of tokens at the end."""
    chunks: list[dict[str, Any]] = [{"choices": [choice("delta", None, content=word)]} for word in words]
    if finish is not None:
        chunks.append({"choices": [choice("delta", finish)]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(words)}})
    lines = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return Action(body=lines + end, headers={"content-type": "text/event-stream"})


def test_a_text_is_told_as_it_is_streamed(start: Start) -> None:
    engine, server = start(lambda *_: streamed(" a", " wo", "rd", "\n"))
    told: list[str] = []
    (said,) = engine.generate([replace(request(), on_text=told.append, stop=("END",))])
    assert told == ["a", "a wo", "a word", "a word"]
    assert (said.text, said.tokens, said.finished) == ("a word", 4, True)
    body = server.requests[0]
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
    assert body["stop"] == ["END"]
    assert (engine.usage.tokens_in, engine.usage.tokens_out) == (9, 4)


def test_a_server_that_does_not_stream_is_heard_as_a_whole(start: Start) -> None:
    engine, server = start(lambda *_: completion("a word"))
    told: list[str] = []
    (said,) = engine.generate([replace(request(), on_text=told.append)])
    assert (said.text, said.finished, told) == ("a word", True, [])
    assert len(server.requests) == 1


def test_a_stream_that_breaks_off_is_made_again(start: Start) -> None:
    broken = streamed("half", finish=None, end=b"")
    engine, server = start(lambda number, _: streamed("half", " a", " text") if number else broken)
    told: list[str] = []
    (said,) = engine.generate([replace(request(), on_text=told.append)])
    assert told == ["half", "half", "half a", "half a text"] and said.text == "half a text"
    assert len(server.requests) == 2


def test_nobody_waits_so_the_stream_is_left(start: Start) -> None:
    engine, _ = start(lambda *_: streamed("one", " two", " three"))
    told: list[str] = []
    (said,) = engine.generate(
        [replace(request(), on_text=told.append, cancelled=lambda: told == ["one", "one two"])]
    )
    assert (said.text, said.finished) == ("one two", False) and told == ["one", "one two"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("streams", [False, True])
def test_a_thought_that_comes_apart(start: Start, name: str, streams: bool) -> None:
    def whole(*_: Any) -> Action:
        return Action(
            body=json.dumps({"choices": [choice("message", content="a word", **{name: "hm"})]}).encode()
        )

    pieces = [choice("delta", None, **{name: "h"}), choice("delta", None, **{name: "m"})]
    pieces += [choice("delta", None, content="a word"), choice("delta", "stop")]
    lines = b"".join(b"data: " + json.dumps({"choices": [each]}).encode() + b"\n\n" for each in pieces)
    stream = Action(body=lines, headers={"content-type": "text/event-stream"})
    engine, _ = start(lambda *_: stream if streams else whole())
    told: list[str] = []
    (said,) = engine.generate([replace(request(), on_text=told.append if streams else None)])
    assert (said.text, said.thought, said.finished, told) == ("a word", "hm", True, ["a word"] * streams)


def test_a_reply_cut_before_its_first_word_is_truncated_and_not_asked_again(start: Start) -> None:
    body = {"choices": [choice("message", "length", content=None, reasoning_content="on and on")]}
    engine, server = start(lambda *_: Action(body=json.dumps(body).encode()))
    (said,) = engine.generate([request()])
    assert (said.text, said.truncated, said.error, said.thought) == ("", True, None, "on and on")
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [None, ""])
def test_a_thought_without_an_answer_fails_and_says_why(start: Start, content: str | None) -> None:
    body = {"choices": [choice("message", content=content, reasoning_content="The sign says 5.")]}
    engine, server = start(lambda *_: Action(body=json.dumps(body).encode()))
    (said,) = engine.generate([request()])
    assert said.error is not None and "reasoning parser" in said.error and not said.transient
    assert len(server.requests) == 1


def told(*words: str, first: tuple[tuple[str, float], ...] = ()) -> dict[str, Any]:
    """``logprobs`` of a choice as OpenAI sends them: each word a little less sure than the one before."""
    content: list[dict[str, Any]] = [
        {"token": word, "logprob": -0.1 * (place + 1), "bytes": None, "top_logprobs": []}
        for place, word in enumerate(words)
    ]
    if first:
        content[0]["top_logprobs"] = [{"token": token, "logprob": value} for token, value in first]
    return {"content": content, "refusal": None}


def whole(choice: dict[str, Any]) -> Action:
    return Action(body=json.dumps({"choices": [choice]}).encode())


def test_probabilities_are_asked_for_only_where_they_are_wanted(start: Start) -> None:
    first = (("yes", -0.1), ("no", -2.4))
    sure = choice("message", content="yes") | {"logprobs": told("yes", first=first)}
    engine, server = start(lambda *_: whole(sure))
    (plain,) = engine.generate([request()])
    assert (
        plain.logprobs is None and "logprobs" not in server.requests[0] and "seed" not in server.requests[0]
    )
    (one,) = engine.generate([replace(request(), logprobs=True)])
    assert one.logprobs == (-0.1,) and not one.top_logprobs
    assert server.requests[1]["logprobs"] is True and "top_logprobs" not in server.requests[1]
    (other,) = engine.generate([replace(request(), top_logprobs=2)])
    assert other.logprobs is None and other.top_logprobs == first
    assert server.requests[2]["top_logprobs"] == 2
    assert engine.traits.logprobs and engine.traits.samples


def test_probabilities_of_a_stream_and_of_a_kept_reply(start: Start, tmp_path: Path) -> None:
    chunks = [choice("delta", None, content=w) | {"logprobs": told(w)} for w in (" a", " word")]
    lines = [{"choices": [chunk]} for chunk in (*chunks, choice("delta"))]
    body = b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines) + b"data: [DONE]\n\n"
    stream = Action(body=body, headers={"content-type": "text/event-stream"})
    engine, server = start(lambda *_: stream, cache=tmp_path)
    asked = replace(request(), logprobs=True, on_text=lambda _: None)
    first = engine.generate([asked])
    assert first[0].logprobs == (-0.1, -0.1) and engine.generate([asked]) == first
    assert len(server.requests) == 1 and engine.usage.cached == 1


@pytest.mark.parametrize(
    ("content", "apart", "tokens", "thought"),
    [
        ("42", None, ("4", "2"), 0),
        ("<think>hm, so</think>\n42", None, ("<think>", "hm,", " so", "</think>", "\n", "4", "2"), 4),
        ("42", "hm, so", ("<think>", "hm,", " so", "</think>", "42"), 4),
        ("42", "hm, so", ("hm,", " so", "42"), 2),  # a server that cuts the marks out
        ("42", "hm, so", ("42",), 0),  # and one that tells those of the answer only
    ],
)
def test_which_probabilities_are_a_thought_s(
    start: Start, content: str, apart: str | None, tokens: tuple[str, ...], thought: int
) -> None:
    message = choice("message", content=content, **({"reasoning_content": apart} if apart else {}))
    engine, _ = start(lambda *_: whole(message | {"logprobs": told(*tokens)}))
    (said,) = engine.generate([replace(request(), logprobs=True)])
    assert said.thought_tokens == thought and said.logprobs is not None and len(said.logprobs) == len(tokens)


@pytest.mark.parametrize(
    "odd",
    [None, {}, {"content": None}, {"content": [{"token": "x"}]}, {"content": [7]}, "yes", {"tokens": ["x"]},
     {"content": [{"token": "x", "logprob": "NaN"}]}],
)  # fmt: skip
def test_a_reply_is_not_lost_for_probabilities_that_nobody_can_read(start: Start, odd: Any) -> None:
    engine, _ = start(lambda *_: whole(choice("message", content="x") | {"logprobs": odd}))
    assert engine.generate([replace(request(), logprobs=True)]) == [Generation("x", 0, True)]


def test_a_server_that_refuses_probabilities_and_seeds_is_told_of_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def script(_: int, body: dict[str, Any]) -> Action:
        if "logprobs" in body:
            return error(400, "This model does not support 'logprobs'.")
        return (
            error(400, "Unrecognized request argument supplied: seed") if "seed" in body else completion("x")
        )

    engine, server = start(script, concurrency=1)
    asked = replace(request(), logprobs=True, top_logprobs=3, sampling=Sampling(0.7))
    said = engine.generate([asked, asked])
    assert [(one.text, one.logprobs, one.top_logprobs) for one in said] == [("x", None, ())] * 2
    assert len(server.requests) == 4, "two refusals, then each request once"
    assert [record.message for record in caplog.records] == [
        "The server tells no logprobs: how sure a reply is stays unknown.",
        "The server takes no seed: samples differ from call to call.",
    ]


def test_a_sampled_reply_is_never_answered_from_a_greedy_one(start: Start, tmp_path: Path) -> None:
    engine, server = start(lambda number, _: completion(f"reply {number}"), cache=tmp_path, concurrency=1)
    warm = replace(request(), sampling=Sampling(0.8, 0.9, 7))
    (greedy,) = engine.generate([request()])
    draws = engine.generate([warm, warm, warm])
    assert [g.text for g in draws] == ["reply 1", "reply 2", "reply 3"], "three draws are three replies"
    assert engine.generate([request(), warm, warm]) == [greedy, *draws[:2]]
    assert [(b["temperature"], b.get("top_p"), b.get("seed")) for b in server.requests] == [
        (0, None, None), (0.8, 0.9, 7), (0.8, 0.9, 8), (0.8, 0.9, 9)
    ]  # fmt: skip
    own = OpenAIEngine(server.url, "made-up", options=engine.options, sampling=Sampling(0.8, 0.9, 7))
    assert own.generate([request()]) == draws[:1] and not own.traits.deterministic
    assert own.identity["sampling"] == "t=0.8,p=0.9,s=7" and engine.identity["sampling"] == "greedy"
    own.close()


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_server_s_template_is_told_to_think_or_not(start: Start, thinking: bool | None) -> None:
    """Without a word nothing is sent: servers differ, and kept replies are found again."""
    engine, server = start(lambda *_: completion("x"))
    own = OpenAIEngine(server.url, "made-up", options=engine.options, thinking=thinking)
    own.generate([request(limit=20)])
    body = server.requests[0]
    kwargs = None if thinking is None else {"enable_thinking": thinking}
    assert body.get("chat_template_kwargs") == kwargs
    assert body["max_tokens"] == (320 if thinking else 20)
    assert own.identity.get("thinking") == {None: None, True: "on", False: "off"}[thinking]
    own.close()
