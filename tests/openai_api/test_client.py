"""The one client against a loopback server: threads, connections, retries, and what stops all calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from judge_server import PASSING_FAULTS, Action, JudgeServer, Script, completion, error

from viscot_core.errors import EngineError
from viscot_core.openai_api import waiting
from viscot_core.openai_api.client import Client
from viscot_core.openai_api.faults import Fault, Kind
from viscot_core.openai_api.options import ApiOptions

KEY = "sk-secret-0123456789"
WORDS = "You exceeded your current quota, please check your plan and billing details."
NO_CREDIT = error(429, WORDS, "insufficient_quota")

Start = Callable[..., tuple[Client, JudgeServer]]


def body(number: int) -> dict[str, Any]:
    return {"model": "made-up", "messages": [{"role": "user", "content": f"card {number}"}], "max_tokens": 9}


def number_of(request: dict[str, Any]) -> int:
    return int(request["messages"][0]["content"].split()[1])


def answers(client: Client, count: int) -> dict[int, str]:
    """What became of ``count`` requests: the text, or the words of the fault."""

    def one(number: int) -> str:
        try:
            return client.ask(body(number)).text or ""
        except Fault as fault:
            return f"{fault.kind.value}: {fault}"

    return dict(client.each(one, range(count)))


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(script, **options) -> (client, server)``."""
    opened: list[tuple[Client, JudgeServer]] = []

    def begin(script: Script, *, key: str | None = None, **options: Any) -> tuple[Client, JudgeServer]:
        server = JudgeServer(script).__enter__()
        settings = {"timeout": 30.0, "attempts": 3, "concurrency": 4, **options}
        opened.append((Client(server.url, key, ApiOptions(**settings)), server))
        return opened[-1]

    yield begin
    for client, server in opened:
        client.close()
        server.__exit__(None, None, None)


# -- threads and connections --------------------------------------------------------------------------


def test_each_thread_keeps_a_connection_of_its_own(start: Start) -> None:
    client, server = start(lambda number, _: completion("fine", delay=0.02))
    assert answers(client, 40) == dict.fromkeys(range(40), "fine")
    assert answers(client, 4) == dict.fromkeys(range(4), "fine")
    assert server.most_open == server.connections == 4


def test_one_after_the_other_takes_one_connection(start: Start) -> None:
    client, server = start(lambda number, _: completion("fine"), concurrency=8)
    for _ in range(10):
        answers(client, 1)
        time.sleep(0.01)
    assert server.connections == 1


def test_callers_in_several_threads_share_the_limit(start: Start) -> None:
    client, server = start(lambda number, _: completion("fine", delay=0.05))
    callers = [threading.Thread(target=answers, args=(client, 6)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(server.requests) == 24 and server.most_open == 4


def test_an_error_of_the_work_is_raised_where_its_results_are_read(start: Start) -> None:
    client, _ = start(lambda *_: completion("fine"), concurrency=1)
    done: list[int] = []

    def work(number: int) -> int:
        if number == 2:
            raise RuntimeError("a bug")
        return number

    with pytest.raises(RuntimeError, match="a bug"):
        done.extend(result for _, result in client.each(work, range(9)))
    assert done == [0, 1], "nothing is begun after it, nothing before it is lost"
    assert answers(client, 2) == {0: "fine", 1: "fine"}, "the client goes on"


def test_who_leaves_begins_nothing_more(start: Start) -> None:
    client, server = start(lambda *_: completion("fine", delay=0.02), concurrency=2)
    results = client.each(lambda number: client.ask(body(number)), range(100))
    next(results)
    results.close()  # type: ignore[attr-defined]
    answers(client, 1)
    assert len(server.requests) < 8


def test_a_closed_client_says_so(start: Start) -> None:
    client, server = start(lambda *_: completion("fine"))
    answers(client, 1)
    client.close()
    with pytest.raises(EngineError, match="client is closed"):
        answers(client, 1)
    assert len(server.requests) == 1


def test_only_a_key_is_sent_as_one(start: Start) -> None:
    for key in (None, KEY):
        client, server = start(lambda *_: completion("fine"), key=key)
        answers(client, 1)
        sent = [line for line in server.headers[0].splitlines() if line.lower().startswith("authorization")]
        assert [line.partition(":")[2].strip() for line in sent] == ([f"Bearer {key}"] if key else [])


# -- what passes --------------------------------------------------------------------------------------


def test_a_rate_limit_is_waited_for_by_all_and_tried_again(start: Start) -> None:
    limit = error(429, "Rate limit reached", "rate_limit_exceeded", Retry_After="0.4")
    client, server = start(lambda number, _: limit if number == 0 else completion("fine"), concurrency=2)
    began = time.monotonic()
    assert answers(client, 6) == dict.fromkeys(range(6), "fine")
    assert time.monotonic() - began >= 0.4
    assert len(server.requests) == 7 and client.usage.retries == 1


def test_nobody_waits_so_no_attempt_is_made(start: Start) -> None:
    client, server = start(lambda *_: error(503), attempts=50)
    gone = threading.Event()

    def leave(number: int) -> str | None:
        threading.Timer(0.1, gone.set).start()
        return client.ask(body(number), cancelled=gone.is_set).finish

    assert dict(client.each(leave, range(1))) == {0: "cancelled"}
    assert len(server.requests) < 50


@pytest.mark.parametrize("needs", [True, False])
def test_a_reply_without_text_is_a_fault_only_where_one_is_needed(start: Start, needs: bool) -> None:
    client, server = start(lambda number, _: completion("fine" if number else None))
    ((_, reply),) = client.each(lambda number: client.ask(body(number), needs_text=needs), range(1))
    assert (reply.text, len(server.requests)) == (("fine", 2) if needs else (None, 1))
    assert client.usage.calls == len(server.requests), "both are paid for"


# -- what stops all calls -----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [8, 16, 32])
@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (NO_CREDIT, f"the account has no credit left (HTTP 429: {WORDS})"),
        (error(400, "Billing hard limit has been reached", "billing_hard_limit_reached"), "no credit left"),
        (error(402, "Insufficient Balance"), "no credit left (HTTP 402: Insufficient Balance)"),
        (
            error(401, f"Incorrect API key provided: {KEY}"),
            "refuses the key in OPENAI_API_KEY (HTTP 401:",
        ),
        (error(403, "Country not supported"), "(HTTP 403: Country not supported)"),
        (error(404, "The model `made-up` does not exist", "model_not_found"), "The model `made-up` does not"),
    ],
)
def test_what_no_call_can_get_past_costs_the_calls_in_flight(
    start: Start, refusal: Action, words: str, threads: int
) -> None:
    client, server = start(lambda *_: refusal, key=KEY, concurrency=threads, attempts=6)
    with pytest.raises(EngineError) as stopped:
        answers(client, 500)
    assert len(server.requests) <= threads
    assert words in str(stopped.value) and KEY not in str(stopped.value)
    with pytest.raises(EngineError):
        answers(client, 5)
    assert len(server.requests) <= threads, "it stays stopped"


def test_those_that_wait_stop_too_and_what_was_answered_is_handed_out(start: Start) -> None:
    """One waits a minute for the rate limit, the others are answered until the credit is used up."""

    def script(number: int, request: dict[str, Any]) -> Action:
        if number_of(request) == 0:
            return error(429, "Rate limit", "rate_limit_exceeded")
        return completion("fine") if number < 20 else NO_CREDIT

    client, server = start(script, concurrency=2, attempts=50)
    waiting_long = lambda attempt: 60.0  # noqa: E731
    done: dict[int, Any] = {}
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EngineError, match=WORDS):
        patch.setattr(waiting, "between", waiting_long)
        for number, reply in client.each(lambda number: client.ask(body(number)), range(100)):
            done[number] = reply.text
    assert time.monotonic() - began < 20
    assert done == dict.fromkeys(range(1, 20), "fine")
    assert len(server.requests) == 21


@pytest.mark.parametrize("status", [404, 400, 405])
def test_a_refusal_after_others_succeeded_fails_its_request_only(start: Start, status: int) -> None:
    def script(number: int, request: dict[str, Any]) -> Action:
        return error(status, "no such thing") if number_of(request) == 3 else completion("fine")

    client, server = start(script, concurrency=1)
    found = answers(client, 8)
    assert found.pop(3).startswith(Kind.NAME.value if status != 400 else Kind.REQUEST.value)
    assert set(found.values()) == {"fine"}
    assert len(server.requests) == 8, "it is not tried again"


def test_a_refused_request_is_no_reason_to_stop_before_any_success(start: Start) -> None:
    client, _ = start(lambda number, _: error(400, "too long") if number < 30 else completion("fine"))
    found = list(answers(client, 40).values())
    assert found.count("fine") == 10
    assert found.count("request: the server refuses the request (HTTP 400: too long)") == 30


def test_a_key_that_is_refused_later_stops_all(start: Start) -> None:
    client, server = start(lambda number, _: completion("fine") if number < 5 else error(401), concurrency=1)
    with pytest.raises(EngineError, match="asks for a key; set OPENAI_API_KEY"):
        answers(client, 50)
    assert len(server.requests) == 6


@pytest.mark.parametrize("name", ["503", "reset", "empty choices"])
def test_a_server_that_never_replies_is_given_up(start: Start, name: str) -> None:
    client, server = start(lambda *_: PASSING_FAULTS[name], attempts=2)
    with pytest.raises(EngineError, match="20 requests in a row got no reply, the last because"):
        answers(client, 500)
    assert len(server.requests) < 2 * (20 + 4)


def test_no_message_shows_the_password_of_an_address() -> None:
    client = Client("http://me:secret@127.0.0.1:1/v1", None, ApiOptions(attempts=1))
    (words,) = answers(client, 1).values()
    assert words.startswith("passing: no connection to http://127.0.0.1:1/v1 (")
    with pytest.raises(EngineError) as stopped:
        answers(client, 100)
    assert "http://127.0.0.1:1/v1 cannot answer" in str(stopped.value) and "secret" not in str(stopped.value)
    client.close()
