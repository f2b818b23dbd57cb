"""Streams put together again, wherever the network cuts their bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.openai_api.faults import Fault
from viscot_core.openai_api.streams import join


def stream(*chunks: dict[str, Any], end: bytes = b"data: [DONE]\n\n", line_end: bytes = b"\n") -> bytes:
    lines = [b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + line_end * 2 for chunk in chunks]
    return b": keep-alive\n\n" + b"".join(lines) + end


def piece(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


WHOLE = [
    piece(None),
    *map(piece, ["One", " two\n", "\u2028three\x85", " 中 ", ""]),
    piece("\U0001f600", "stop"),
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
]


@given(st.lists(st.integers(0, 700), max_size=6), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_the_whole_is_the_same_wherever_it_is_cut(cuts: list[int], line_end: bytes, done: bool) -> None:
    data = stream(*WHOLE, line_end=line_end, end=b"data: [DONE]\n\n" if done else b"")
    places = [0, *sorted(cuts), len(data)]
    told: list[str] = []
    found = join([data[a:b] for a, b in pairwise(places)], told.append, None)
    text = "One two\n\u2028three\x85 中 \U0001f600"
    assert found["choices"] == [{"message": {"content": text}, "finish_reason": "stop"}]
    assert (found["usage"], found["model"]) == ({"prompt_tokens": 9, "completion_tokens": 5}, "m")
    assert told[-1] == text and all(text.startswith(each) for each in told)


def test_half_a_character_is_not_told() -> None:
    halves = [json.dumps(piece(half)).encode() for half in ("\ud83d", "\ude00")]
    told: list[str] = []
    with pytest.raises(Fault, match="cut off"):
        join([b"data: " + half + b"\n\n" for half in halves], told.append, None)
    assert told == ["\ud83d\ude00"]


def test_an_error_in_the_middle_comes_back() -> None:
    told: list[str] = []
    data = stream(piece("half"), {"error": {"message": "gone", "code": "x"}}, end=b"")
    assert join([data], told.append, None) == {"error": {"message": "gone", "code": "x"}}
    assert told == ["half"]


def test_it_is_left_when_nobody_waits() -> None:
    told: list[str] = []
    found = join([stream(*map(piece, "abc"))], told.append, lambda: len(told) == 2)
    assert told == ["a", "ab"]
    assert found["choices"][0]["finish_reason"] == "cancelled"
