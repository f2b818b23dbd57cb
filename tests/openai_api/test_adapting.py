"""Servers that speak the protocol otherwise: what their refusals teach, and streams that nobody asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion, error

from viscot_core.openai_api.adapting import Lesson, adapted, lesson
from viscot_core.openai_api.client import Client
from viscot_core.openai_api.faults import Fault
from viscot_core.openai_api.limits import reasons
from viscot_core.openai_api.options import ApiOptions

BODY = {"model": "made-up", "messages": [{"role": "user", "content": "q"}], "max_tokens": 9, "temperature": 0}
NO_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."
)
NO_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. "
    "Only the default (1) value is supported."
)
NO_COMPLETION_TOKENS = "Unrecognized request argument supplied: max_completion_tokens"
TEXT = {"type": "text", "text": "hm"}
STREAM_ONLY = "This model only support stream mode, please enable the stream parameter to access the model."


def stream(*pieces: str) -> Action:
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    lines = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return Action(body=lines + b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"})


@pytest.fixture
def asked() -> Iterator[Callable[..., tuple[str | None, list[dict[str, Any]]]]]:
    """``asked(script, body, times) -> (the last text, what the server was sent)``."""

    def ask(
        script: Callable[[int, dict[str, Any]], Action],
        body: dict[str, Any] = BODY,
        times: int = 1,
        **options: Any,
    ) -> tuple[str | None, list[dict[str, Any]]]:
        with (
            JudgeServer(script) as server,
            Client(server.url, None, ApiOptions(attempts=1, **options)) as client,
        ):
            said = [dict(client.each(client.ask, [body]))[0] for _ in range(times)]
            return said[-1].text, server.requests

    yield ask


def test_a_reasoning_deployment_of_any_name(asked: Any) -> None:
    def script(_: int, body: dict[str, Any]) -> Action:
        if "max_tokens" in body:
            return error(400, NO_MAX_TOKENS)
        return error(400, NO_TEMPERATURE) if "temperature" in body else completion("fine")

    text, sent = asked(script, times=2)
    assert text == "fine" and len(sent) == 4, "what was learnt is not asked again"
    assert sent[-1]["max_completion_tokens"] == 16 * 9 and "temperature" not in sent[-1]


def test_a_server_that_only_streams(asked: Any) -> None:
    script = lambda _, body: stream("a ", "word") if body.get("stream") else error(400, STREAM_ONLY)  # noqa: E731
    text, sent = asked(script, times=2)
    assert text == "a word" and [body.get("stream") for body in sent] == [None, True, True]


def test_a_stream_that_nobody_asked_for(asked: Any) -> None:
    assert asked(lambda *_: stream("a ", "word"))[0] == "a word"


@pytest.mark.parametrize(
    ("words", "body", "found"),
    [
        (NO_MAX_TOKENS, BODY, Lesson.COMPLETION_TOKENS),
        (
            "Unrecognized request argument supplied: max_completion_tokens",
            {"max_completion_tokens": 9},
            Lesson.MAX_TOKENS,
        ),
        (NO_TEMPERATURE, BODY, Lesson.NO_TEMPERATURE),
        ("Unknown field: stream_options", {"stream_options": {}, "stream": True}, Lesson.NO_STREAM_OPTIONS),
        ("response_format is not supported", {"response_format": {}}, Lesson.NO_RESPONSE_FORMAT),
        ("max_tokens is too large: 5000. This model supports at most 4096 completion tokens", BODY, None),
        ("This model's maximum context length is 4096 tokens", BODY, None),
        ("the image is not supported", BODY, None),
    ],
)
def test_what_a_refusal_teaches(words: str, body: dict[str, Any], found: Lesson | None) -> None:
    assert lesson(words, body) is found
    assert found is None or adapted(body, {found}) != body


def test_what_the_user_gave_is_never_left_out(asked: Any) -> None:
    with pytest.raises(Fault, match="temperature"):
        asked(
            lambda *_: error(400, NO_TEMPERATURE),
            BODY | {"temperature": 0.7},
            extra_body={"temperature": 0.7},
        )


@pytest.mark.parametrize(
    ("model", "does"),
    [
        ("gpt-5", True),
        ("openai/gpt-5-mini", True),
        ("azure/my-gpt-5-deployment", True),
        ("o3", True),
        ("openrouter/openai/o4-mini", True),
        ("mini-o3-7b", False),
        ("llava-o1", False),
        ("gpt-4o", False),
        ("openai/gpt-4o", False),
        ("my-gpt-50", False),
    ],
)
def test_reasoning_models_under_any_prefix(model: str, does: bool) -> None:
    assert reasons(model) is does


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "word"}], "a word"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "b"},
            ],
            "b",
        ),
    ],
)
def test_content_as_a_list_of_parts(asked: Any, content: Any, text: str) -> None:
    assert asked(lambda *_: completion(content))[0] == text


def test_a_refusal_is_told_and_final(asked: Any) -> None:
    body = {
        "choices": [
            {"message": {"content": None, "refusal": "I can't help with that."}, "finish_reason": "stop"}
        ]
    }
    with pytest.raises(Fault, match="the model refuses: I can't help with that"):
        asked(lambda *_: Action(body=json.dumps(body).encode()))
