"""A file on a server, and whether a server's answer can be that file: judged by the headers alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httpx

from viscot_core.errors import DataError

BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Status codes after which another attempt may succeed."""


class Lost(Exception):
    """An attempt failed, but another may succeed; ``wait``: seconds the server asked to wait."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to fetch. ``pinned``: the URL always has the same bytes, so a range needs no ``If-Range``.

    ``size`` is exact; a file of more than ``most`` bytes is refused.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None
    pinned: bool = False
    most: int | None = None


def check_kind(remote: Remote, response: httpx.Response) -> None:
    """Refuse bytes that are certainly not those of the stored file."""
    url = remote.url
    by_hand = "fetch it by hand and use 'viscot data organize'"
    if "html" in response.headers.get("Content-Type", "").lower():
        raise DataError(
            f"{url} sends a web page instead of the file: it has moved or needs a login; {by_hand}."
        )
    encoding = response.headers.get("Content-Encoding", "").lower()
    # Of a .tgz many servers say that it is an encoded .tar: its bytes are the stored ones all the same.
    if encoding not in ("", "identity") and not response.url.path.endswith((".gz", ".tgz")):
        raise DataError(f"{url} sends {encoding}-encoded bytes, not the stored ones; {by_hand}.")


def too_large(remote: Remote) -> DataError:
    """The error for a file that grows far beyond the catalogue's size."""
    return DataError(
        f"{remote.url} has more than {remote.most:,} bytes, far more than the catalogue says; "
        "look for a newer viscot, or fetch it by hand and use 'viscot data organize'."
    )


def another_file(wanted: Remote, found: str) -> DataError:
    """The error for content whose sha256 is not that of ``wanted``."""
    return DataError(
        f"{wanted.url} is not the expected file: its sha256 is {found}, not {wanted.sha256}; if it was "
        "changed on purpose, accept it with --relock and the name of its source."
    )


def length_of(response: httpx.Response) -> int | None:
    """``Content-Length``, if it is one."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length, re.ASCII) else None


def has_an_end(response: httpx.Response, remote: Remote) -> bool:
    """Whether a cut or an endless answer without ``Content-Length`` would be noticed."""
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return remote.size is not None or (chunked and remote.most is not None)


def validator_of(response: httpx.Response) -> str | None:
    """A strong ETag, or the date of the last change: the valid values of ``If-Range``."""
    etag, changed = response.headers.get("ETag"), response.headers.get("Last-Modified")
    validator = etag if etag and not etag.startswith("W/") else changed
    # Others cannot be sent back in a header.
    return validator if validator and validator.isascii() and validator.isprintable() else None


def advice(code: int) -> str:
    """What to do about a status code that no other attempt will change."""
    if code in (401, 403):
        return "it needs a login: get access as the source describes, or fetch it by hand"
    if code in (404, 410):
        return "it has moved: look for a newer viscot, or fetch it by hand and use 'viscot data organize'"
    return "try again later, or fetch it by hand and use 'viscot data organize'"
