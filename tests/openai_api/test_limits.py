"""A reply is limited by the fields its model takes."""

from __future__ import annotations

import pytest

from viscot_core.conversation import THOUGHTS
from viscot_core.openai_api.limits import longest_reply, reasons, reply_fields


@pytest.mark.parametrize("model", ["o1", "o3-mini", "gpt-5", "gpt-5-nano-2025-08-07"])
def test_reasoning_models_think_first_and_take_no_temperature(model: str) -> None:
    assert reasons(model)
    assert reply_fields(model, 20, 0.7) == {"max_completion_tokens": THOUGHTS * 20}
    assert longest_reply(reply_fields(model, 20)) == THOUGHTS * 20


@pytest.mark.parametrize("model", ["gpt-4o", "olmo", "qwen-o1", "llava"])
def test_other_models_do(model: str) -> None:
    assert reply_fields(model, 20, 0.7) == {"max_tokens": 20, "temperature": 0.7}
    assert longest_reply(reply_fields(model, 20)) == 20
