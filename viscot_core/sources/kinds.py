"""Is a fetched file what the catalogue names? Checked before its hash is recorded, which would lock it."""

from __future__ import annotations

from pathlib import Path

from viscot_core.sources.catalog import Download

_BRACKETS = {".json": ((b"[", b"]"), (b"{", b"}")), ".jsonl": ((b"{", b"}"),)}
_SLACK = 1 << 20


def most_bytes(one: Download) -> int | None:
    """A file (of a split archive: a part) with more bytes is not the catalogue's; None: no size is known."""
    return one.size * 3 // 2 // one.parts + _SLACK if one.size else None


def fault_of(path: Path, one: Download) -> str | None:
    """Why ``path`` cannot be the download's content, by its two ends; None where it can.

    Archives are not judged here: unpacking them shows their faults.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(max(0, size - 512))
        tail = file.read().rstrip()
    if head[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    brackets = _BRACKETS.get(Path(one.to).suffix)
    if brackets and not any(head.startswith(left) and tail.endswith(right) for left, right in brackets):
        return f"it is no complete {Path(one.to).suffix.removeprefix('.').upper()} file"
    return None
