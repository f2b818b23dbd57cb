"""Replies of servers by the content of their request: in a folder a user named, none is paid for twice."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


class Replies:
    """One small file per request, written whole or not at all; a damaged one counts as absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """``{"text", "tokens", "finished"}`` of a request, or None."""
        try:
            entry = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        known = isinstance(entry, dict) and isinstance(entry.get("text"), str)
        return entry if known and {"tokens", "finished"} <= entry.keys() else None

    def put(self, key: str, entry: dict[str, Any]) -> None:
        """Keep a reply."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        temporary.write_text(json.dumps(entry))
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
