"""API keys: they come from the environment only, are checked before they are used, and told to nobody."""

from __future__ import annotations

from collections.abc import Mapping

from viscot_core.errors import UsageError


def key_in(variable: str, environment: Mapping[str, str]) -> str | None:
    """The key an environment variable holds; None where it is unset or empty.

    Raises:
        UsageError: it holds characters that no HTTP header can carry.
    """
    key = environment.get(variable, "").strip() or None
    if key and not (key.isascii() and key.isprintable()):
        raise UsageError(f"{variable} holds characters no key has; copy it again.")
    return key


def told(words: str, key: str | None) -> str:
    """A server's words on one line of at most 200 characters, the key taken out should it repeat it."""
    words = " ".join(words.split())
    return (words.replace(key, "***") if key else words)[:200]
