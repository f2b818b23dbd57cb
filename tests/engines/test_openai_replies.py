"""What the engine behind a server makes of its replies: streams, thoughts, probabilities, samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_engine import Start, request
from judge_server import Action, completion, error

from viscot_core.engines.base import Generation, Sampling
from viscot_core.engines.openai import OpenAIEngine


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
