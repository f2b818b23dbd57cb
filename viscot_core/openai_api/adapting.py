"""What a server does not take: learnt from its refusal, and left out of every later request.

Servers speak OpenAI's protocol with differences that their names do not tell (a deployment of Azure is called
anything). A field that viscot sets by itself is not worth a failed run.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum
from typing import Any

from viscot_core.conversation import THOUGHTS


class Lesson(Enum):
    """One thing to do otherwise, in the words that the user is told."""

    COMPLETION_TOKENS = "wants max_completion_tokens; thoughts count as reply"
    MAX_TOKENS = "wants max_tokens"
    NO_TEMPERATURE = "takes no temperature: replies may differ from call to call"
    NO_STREAM_OPTIONS = "takes no stream_options: tokens of streams are not counted"
    STREAM = "only streams"
    NO_SEED = "takes no seed: samples differ from call to call"
    NO_LOGPROBS = "tells no logprobs: how sure a reply is stays unknown"
    NO_RESPONSE_FORMAT = "takes no response_format: JSON is asked for in words only"


_REFUSES = re.compile(
    r"unsupported|not? support|n't support|only support|unrecogni[sz]ed|unknown|unexpected|not permitted"
    r"|not allowed|not available|extra|instead|enable|must be (?:set to )?true|must stream",
    re.IGNORECASE,
)
"""A refusal of a field as such. "max_tokens is too large" is about its value, and stays an error."""

_LEFT_OUT = (
    ("temperature", Lesson.NO_TEMPERATURE),
    ("stream_options", Lesson.NO_STREAM_OPTIONS),
    ("response_format", Lesson.NO_RESPONSE_FORMAT),
    ("seed", Lesson.NO_SEED),
    ("top_logprobs", Lesson.NO_LOGPROBS),
    ("logprobs", Lesson.NO_LOGPROBS),
)
"""Fields without which a request still gets its reply."""


def lesson(words: str, body: dict[str, Any]) -> Lesson | None:
    """What a refusal (HTTP 400 or 422) of ``body`` teaches; None where it is about something else."""
    if not _REFUSES.search(words):
        return None
    if "max_tokens" in body and re.search(r"\bmax_(completion_)?tokens\b", words):
        return Lesson.COMPLETION_TOKENS
    if "max_completion_tokens" in body and "max_completion_tokens" in words:
        return Lesson.MAX_TOKENS
    for field, found in _LEFT_OUT:
        if field in body and field in words:
            return found
    return Lesson.STREAM if not body.get("stream") and re.search(r"\bstream", words, re.I) else None


def adapted(body: dict[str, Any], learnt: Collection[Lesson]) -> dict[str, Any]:
    """``body`` as the server takes it."""
    body = dict(body)
    if Lesson.STREAM in learnt:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if Lesson.MAX_TOKENS in learnt and "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")
    elif Lesson.COMPLETION_TOKENS in learnt and "max_tokens" in body:
        body["max_completion_tokens"] = THOUGHTS * body.pop("max_tokens")
    for field, found in _LEFT_OUT:
        if found in learnt:
            body.pop(field, None)
    return body
