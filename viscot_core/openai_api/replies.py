"""Replies of servers by the content of their request: the same question is never paid for twice.

One small file per request, written whole or not at all. A damaged one counts as absent and is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """The sha256 that names a request: where it goes and every field of it (model, words, temperature)."""
    canonical = json.dumps([url, body], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class ReplyCache:
    """JSON objects with a ``reply`` under ``folder/ab/abcdef….json``; several threads may use one.

    ``damaged`` counts entries that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0

    def get(self, key: str) -> dict[str, Any] | None:
        try:
            entry = json.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.damaged += 1
            return None
        if not isinstance(entry, dict) or not isinstance(entry.get("reply"), str):
            self.damaged += 1
            return None
        return entry

    def put(self, key: str, entry: Mapping[str, Any]) -> None:
        path = self._path(key)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        content = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            temporary.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
