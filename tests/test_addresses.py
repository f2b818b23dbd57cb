"""Addresses are shown and recorded without what may be a key."""

from __future__ import annotations

import pytest

from viscot_core.addresses import secrets_in, without_password


@pytest.mark.parametrize("url", ["http://h:1/v1", "http://me:secret@h:1/v1", "http://me@h:1/v1"])
def test_an_address_is_shown_without_its_password(url: str) -> None:
    assert without_password(url) == "http://h:1/v1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://h/v1?key=sk-1#NAME", "http://h/v1#NAME"),
        ("no connection to http://u:p@h/v1?a=1&key=2 (refused)", "no connection to http://h/v1 (refused)"),
        ("https://u:p@ss@h/v1", "https://h/v1"),
        ("What is it? me@example.org", "What is it? me@example.org"),
    ],
)
def test_words_with_addresses_are_shown_without_their_keys(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_what_may_be_secret() -> None:
    assert secrets_in("http://u:p%40ss@h/v1?key=sk-123&v=1") == ("p@ss", "sk-123")
    assert secrets_in("http://sk-123@h/v1") == ("sk-123",)
    assert secrets_in("http://h:1/v1") == ()
