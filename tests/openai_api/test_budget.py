"""Limits on requests and dollars hold while calls are in flight."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from viscot_core.errors import BudgetSpent
from viscot_core.openai_api.budget import IMAGE_TOKENS, MESSAGE_OVERHEAD, Budget, Price, Usage

A_DOLLAR_A_TOKEN = Price(input=1e6, output=1e6)


def body(text: str, images: int = 0, reply: int = 1) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": "data:..."}}
    content = [*[image] * images, {"type": "text", "text": text}] if images else text
    return {"messages": [{"role": "user", "content": content}], "max_tokens": reply}


def booked(budget: Budget, request: dict[str, Any]) -> float:
    with budget.call(request) as bill:
        worst, bill.cost = bill.cost, 0.0
        return worst


def test_the_most_a_call_can_cost_is_a_token_a_byte() -> None:
    budget = Budget(Usage(), None, None, A_DOLLAR_A_TOKEN)
    assert booked(budget, body("word", reply=7)) == 4 + MESSAGE_OVERHEAD + 7
    assert booked(budget, body("wörd中\ud83d")) == 4 + 1 + 3 + 3 + MESSAGE_OVERHEAD + 1


def test_tools_and_their_calls_are_words_too() -> None:
    budget = Budget(Usage(), None, None, A_DOLLAR_A_TOKEN)
    plain = body("word")
    with_tools = plain | {"tools": [{"name": "zoom"}]}
    assert booked(budget, with_tools) == booked(budget, plain) + len('[{"name": "zoom"}]')
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}
    with_tools["messages"] = [*plain["messages"], called]
    assert booked(budget, with_tools) == booked(budget, plain) + len('[{"name": "zoom"}][{"id": "a"}]')


def test_an_image_counts_as_the_longest_prompt_so_far() -> None:
    budget = Budget(Usage(), None, None, A_DOLLAR_A_TOKEN)
    assert booked(budget, body("", images=2)) == 2 * IMAGE_TOKENS + MESSAGE_OVERHEAD + 1
    with budget.call(body("x")) as bill:
        budget.count(bill, 9000, 1)
        assert bill.cost == 9001
    assert booked(budget, body("", images=1)) == 9000 + MESSAGE_OVERHEAD + 1


def test_a_call_waits_for_those_in_flight_and_is_refused_when_they_cost_too_much() -> None:
    usage = Usage()
    one = body("x" * 79, reply=9)  # at most 100 dollars with its overhead
    budget = Budget(usage, None, 150.0, A_DOLLAR_A_TOKEN)
    began, refused = threading.Event(), threading.Event()

    def second() -> None:
        with budget.call(one) as bill:
            began.set()
            bill.cost = 100.0

    def third() -> None:
        with (
            pytest.raises(BudgetSpent, match=r"--max-cost 150 is used up \(\$110.0000 spent\)"),
            budget.call(one),
        ):
            pass
        refused.set()

    waits = threading.Thread(target=second)
    with budget.call(one) as bill:
        waits.start()
        assert not began.wait(0.1), "100 are booked and 100 more would be too much"
        bill.cost = 10.0
    assert began.wait(5)
    waits.join(5)
    assert not usage.capped
    threading.Thread(target=third).start()
    assert refused.wait(5) and usage.capped
    assert usage.cost == 110.0


def test_requests_are_counted_without_a_price() -> None:
    usage = Usage()
    budget = Budget(usage, 2, None, None)
    for _ in range(2):
        assert booked(budget, body("x")) == 0.0
    with pytest.raises(BudgetSpent, match="--max-requests 2 are used up"):
        booked(budget, body("x"))
    assert usage.capped and usage.cost is None
