"""Replies of judges, shared by all runs: the same question is never paid for twice."""

from __future__ import annotations

import os
from pathlib import Path

from viscot_core.engines.replies import ReplyCache, request_key

__all__ = ["ReplyCache", "default_cache", "request_key"]


def default_cache() -> Path:
    """``$VISCOT_CACHE/judge``, else ``viscot/judge`` in the user's cache folder (``$XDG_CACHE_HOME``)."""
    if own := os.environ.get("VISCOT_CACHE"):
        return Path(own) / "judge"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viscot" / "judge"
