"""API keys: they come from the environment only, are checked before use, and appear in no message."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from viscot_core.addresses import no_address, without_password
from viscot_core.errors import UsageError

OPENAI_KEY = "OPENAI_API_KEY"
"""The variable that clients of OpenAI-compatible servers read."""


def openai_key(url: str, *, needed: bool = True) -> str | None:
    """The key for the OpenAI-compatible server at ``url``; servers of one's own mostly want none.

    Raises:
        UsageError: ``url`` is OpenAI's and the key is ``needed`` but not set, or no header can carry it; or
            ``url`` is no address.
    """
    key = key_in(OPENAI_KEY, os.environ)
    try:
        host = urlsplit(url).hostname
    except ValueError as error:
        raise no_address(url) from error
    if key is None and needed and host == "api.openai.com":
        raise UsageError(f"{OPENAI_KEY} is not set; export your key, or name a server of your own.")
    return key


def key_in(variable: str, environment: Mapping[str, str]) -> str | None:
    """The key an environment variable holds; None where it is unset or empty.

    Raises:
        UsageError: it holds characters that no HTTP header can carry.
    """
    key = environment.get(variable, "").strip() or None
    if key and not (key.isascii() and key.isprintable()):
        raise UsageError(f"{variable} contains characters that no key has; copy it again.")
    return key


def redact(words: str, key: str | None) -> str:
    """A server's words on one line of at most 200 characters, without the key should it repeat it."""
    # The key goes before the text is cut: half a key at the cut would not be found.
    words = without_password(" ".join(words.split()))
    return (words.replace(key, "***") if key else words)[:200]
