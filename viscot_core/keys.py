"""API keys: they come from the environment only, and are checked before they are used."""

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
