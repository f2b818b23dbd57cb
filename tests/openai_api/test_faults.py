"""Each way of failing has one meaning, whoever asked."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from viscot_core.openai_api.faults import Fault, Kind, of_error, of_status, of_transport

BUSY = "the server is busy or broken"
NO_CREDIT = "the account has no credit left"
NO_MODEL = "the server knows no such model or address"


def fault(status: int, error: Any, wait: str | None = None) -> Fault:
    return of_status(status, json.dumps({"error": error}).encode(), wait, "sk-key", "made-up")


@pytest.mark.parametrize(
    ("status", "error", "kind", "words"),
    [
        (429, {"message": "slow down", "code": "rate_limit_exceeded"}, Kind.PASSING, BUSY),
        (429, {"message": "You exceeded your current quota", "code": 429}, Kind.PASSING, BUSY),
        (429, {"message": "m", "type": "insufficient_quota", "code": None}, Kind.ACCOUNT, NO_CREDIT),
        (429, {"message": "m", "code": "insufficient_quota"}, Kind.ACCOUNT, NO_CREDIT),
        (429, {"message": "m", "code": "billing_not_active"}, Kind.ACCOUNT, NO_CREDIT),
        (429, {"message": "m", "type": "exceeded_current_quota_error"}, Kind.ACCOUNT, NO_CREDIT),
        (400, {"message": "m", "code": "billing_hard_limit_reached"}, Kind.ACCOUNT, NO_CREDIT),
        (400, {"message": "m", "code": "Arrearage"}, Kind.ACCOUNT, NO_CREDIT),
        (402, {"message": "Insufficient Balance", "code": 402}, Kind.ACCOUNT, NO_CREDIT),
        (401, {"message": "sk-key is wrong"}, Kind.ACCOUNT, "refuses the key in OPENAI_API_KEY"),
        (403, "forbidden", Kind.ACCOUNT, "refuses the key in OPENAI_API_KEY"),
        (404, {"message": "m"}, Kind.NAME, NO_MODEL),
        (403, {"message": "m", "code": "model_not_found"}, Kind.NAME, NO_MODEL),
        (400, {"message": "m", "code": "invalid_model"}, Kind.NAME, NO_MODEL),
        (301, None, Kind.NAME, NO_MODEL),
        (400, {"message": "m", "code": "content_filter"}, Kind.REQUEST, "content filter"),
        (400, {"message": "m", "type": "invalid_request_error"}, Kind.REQUEST, "refuses the request"),
        (413, "too large", Kind.REQUEST, "refuses the request (HTTP 413: too large)"),
        (408, None, Kind.PASSING, BUSY),
        (500, None, Kind.PASSING, BUSY),
        (529, {"message": "overloaded"}, Kind.PASSING, f"{BUSY} (HTTP 529: overloaded)"),
    ],
)
def test_status_and_codes(status: int, error: Any, kind: Kind, words: str) -> None:
    found = fault(status, error)
    assert found.kind is kind
    assert words in str(found) and "sk-key" not in str(found)
    assert not found.billed


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[1]", b"null", b"3", b'{"error": 3}', b'{"x": 1}'])
def test_a_body_of_any_shape_is_read(body: bytes) -> None:
    assert of_status(503, body, None, None, "m").kind is Kind.PASSING


def test_a_list_of_errors_says_its_first() -> None:
    body = b'[{"error": {"code": 429, "message": "Resource exhausted", "status": "RESOURCE_EXHAUSTED"}}]'
    assert str(of_status(429, body, None, None, "m")) == f"{BUSY} (HTTP 429: Resource exhausted)"


def test_the_wait_is_the_servers() -> None:
    assert fault(429, None, "7").wait == 7
    assert fault(429, None).wait is None


def test_an_error_in_a_stream_has_its_code_only() -> None:
    found = of_error(200, {"message": "gone", "code": "insufficient_quota"}, None, "m")
    assert found.kind is Kind.ACCOUNT
    broken = of_error(200, "gone", None, "m")
    assert (broken.kind, broken.billed) == (Kind.PASSING, True)


@pytest.mark.parametrize(
    ("error", "words", "billed"),
    [
        (httpx.ConnectError("refused"), "no connection to http://h/v1 (refused)", False),
        (httpx.ConnectTimeout(""), "no connection to http://h/v1 (ConnectTimeout)", False),
        (httpx.ReadTimeout("slow"), "the server did not answer in time", True),
        (httpx.RemoteProtocolError("cut"), "the connection broke (cut)", True),
        (httpx.DecodingError("gzip"), "the connection broke (gzip)", True),
    ],
)
def test_what_never_came_to_a_status(error: httpx.HTTPError, words: str, billed: bool) -> None:
    found = of_transport(error, "http://h/v1")
    assert (found.kind, str(found), found.billed) == (Kind.PASSING, words, billed)
