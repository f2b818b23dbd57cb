"""How long clients of a server wait: between two attempts, and as long as it asks."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Bounds of the first and of the longest random wait between attempts, in seconds."""
LONGEST_RETRY_AFTER = 120.0
"""Where a server asks for a longer pause, the call is left for another run."""
GIVE_UP_AFTER = 20
"""So many requests in a row without a reply mean that nothing works: stop and say so."""


def between(attempt: int) -> float:
    """Seconds to wait after attempt number ``attempt`` (from 1): random, its bound doubling each time."""
    return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)))


def spread(wait: float) -> float:
    """``wait`` and up to a tenth more, so that those who wait together do not come back together."""
    return wait + random.uniform(0, 0.1 * wait)


def retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header (RFC 9110, 10.2.3): a number or a date.

    None where it is absent or unreadable; a date that has passed is 0.
    """
    value = (value or "").strip()
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:  # "-0000": by RFC 5322 the time is UTC
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
