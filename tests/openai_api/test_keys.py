"""Keys come from the environment, and no message repeats them."""

from __future__ import annotations

import pytest

from viscot_core.errors import UsageError
from viscot_core.openai_api.keys import key_in, openai_key, redact

KEY = "sk-" + "k" * 45


def test_a_key_is_taken_from_the_environment() -> None:
    assert key_in("A_KEY", {"A_KEY": f" {KEY}\n"}) == KEY
    assert key_in("A_KEY", {"A_KEY": "  "}) is None
    assert key_in("A_KEY", {}) is None
    with pytest.raises(UsageError, match="A_KEY contains characters that no key has"):
        key_in("A_KEY", {"A_KEY": "sk-\u00e9"})


def test_only_openai_itself_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert openai_key("http://localhost:8000/v1") is None
    assert openai_key("https://api.openai.com/v1", needed=False) is None
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        openai_key("https://api.openai.com/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert openai_key("http://localhost:8000/v1") == openai_key("https://api.openai.com/v1") == KEY


@pytest.mark.parametrize("before", [0, 150, 180, 198, 500])
def test_no_part_of_a_key_is_repeated_wherever_the_words_are_cut(before: int) -> None:
    words = redact("x" * before + KEY + " is\n wrong", KEY)
    assert "kk" not in words
    assert len(words) <= 200
    assert "\n" not in words


def test_words_without_a_key_stay() -> None:
    assert redact("busy,  try\tlater", None) == "busy, try later"
