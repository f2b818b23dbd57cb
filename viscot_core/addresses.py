"""Addresses of servers: what of them may be written down and shown."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from viscot_core.errors import UsageError

_USER = re.compile(r"(?<=://)[^\s/]*@")
_QUERY = re.compile(r"(\bhttps?://[^\s?#\"']*)\?[^\s#\"']*")


def without_password(text: str) -> str:
    """A URL, or words with URLs in them, without user, password and query: each may be or hold a key."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def no_address(url: str) -> UsageError:
    """The error of a URL that leads to no server."""
    return UsageError(
        f"{without_password(url)} is no address of a server; give one like http://127.0.0.1:8000/v1."
    )


def secrets_in(url: str) -> tuple[str, ...]:
    """The parts of ``url`` that may be secret: password, or the user that is one, and values of the query."""
    parts = urlsplit(url)
    values = [value for _, value in parse_qsl(parts.query)]
    return tuple(
        unquote(word) for word in (parts.password or parts.username, *values) if word and len(word) > 3
    )
