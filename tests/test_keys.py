"""Keys come from the environment, and no message repeats them."""

from __future__ import annotations

import pytest

from viscot_core.errors import UsageError
from viscot_core.keys import key_in, told

KEY = "sk-" + "k" * 45


def test_a_key_is_taken_from_the_environment() -> None:
    assert key_in("A_KEY", {"A_KEY": f" {KEY}\n"}) == KEY
    assert key_in("A_KEY", {"A_KEY": "  "}) is None
    assert key_in("A_KEY", {}) is None
    with pytest.raises(UsageError, match="A_KEY holds characters no key has"):
        key_in("A_KEY", {"A_KEY": "sk-\u00e9"})


@pytest.mark.parametrize("before", [0, 150, 180, 198, 500])
def test_no_part_of_a_key_is_told_wherever_the_words_are_cut(before: int) -> None:
    words = told("x" * before + KEY + " is\n wrong", KEY)
    assert "kk" not in words
    assert len(words) <= 200
    assert "\n" not in words


def test_words_without_a_key_stay() -> None:
    assert told("busy,  try\tlater", None) == "busy, try later"
