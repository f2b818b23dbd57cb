"""A server's reply as it comes over the wire, read within limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from viscot_core.conversation import ToolCall, with_calls
from viscot_core.openai_api import faults, streams
from viscot_core.openai_api.replies import CUT, Reply, TokenLogprobs
from viscot_core.openai_api.streams import CANCELLED

MAX_REPLY = 32 * 2**20
"""Bytes of the largest reply that is read, unpacked; a long one with its thoughts has less than one MB."""
MAX_VERSION = 100
"""Characters that are kept of what a server says of itself."""


def limited(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a body. Raises Fault once they are more than ``MAX_REPLY``."""
    total = 0
    for block in blocks:
        total += len(block)
        if total > MAX_REPLY:
            raise faults.too_large(MAX_REPLY)
        yield block


def completion(data: Any, *, tools: bool = False) -> Reply:
    """A completion as a server sends it; an exception of any kind where it is none.

    Calls of ``tools`` that were offered come behind the words (``with_calls``).
    """
    choice = data["choices"][0]
    message, finish = choice["message"], choice.get("finish_reason")
    if finish == "content_filter":
        raise faults.refused_by_filter(billed=True)
    if message.get("refusal"):
        raise faults.refused_by_model(str(message["refusal"]))
    text, thought = _words(message.get("content"))
    if tools and (calls := _calls(message.get("tool_calls"))):
        text = with_calls(text or "", calls)
    thought = thought or streams.thought_of(message)
    # Cut before the first word of the answer: that is a reply, and another try would be cut as well.
    if text is None and finish in CUT:
        text = ""
    if not text and thought and finish not in CUT and finish != CANCELLED:
        raise faults.only_thought()
    usage = data.get("usage") or {}
    tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    words = None if text is None else readable(text)
    model, logprobs = str(data.get("model") or ""), _token_logprobs(choice.get("logprobs"))
    version = readable(str(data.get("system_fingerprint") or ""))[:MAX_VERSION]
    return Reply(words, finish, *tokens, model, readable(thought), logprobs, version)


def _calls(sent: Any) -> list[ToolCall]:
    """The calls of a message; an exception of any kind where they are none."""
    calls: list[ToolCall] = []
    for call in sent or ():
        function = call["function"]
        # Some servers send the arguments as an object, and no id.
        arguments = function.get("arguments") or ""
        words = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(str(call.get("id") or f"call_{len(calls)}"), str(function["name"]), words))
    return calls


def _words(content: Any) -> tuple[str | None, str]:
    """Text and thought of a message's content, a text or a list of parts; None where there is no text."""
    if not isinstance(content, list):
        return (content, "") if isinstance(content, str) else (None, "")
    texts = [part["text"] for part in content if part.get("type") in ("text", "output_text")]
    thoughts = [part.get("thinking") for part in content if part.get("type") == "thinking"]
    spoken = [_words(each)[0] or "" for each in thoughts]
    return ("".join(texts) if texts else None), "".join(spoken)


def readable(text: str) -> str:
    """Surrogates, which JSON spells and no file holds: a pair becomes its character, half a one U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _token_logprobs(said: Any) -> TokenLogprobs | None:
    """``logprobs`` of a choice; None where there are none, or in a form that nobody knows.

    A reply is not lost for them: they only say how sure it is.
    """
    content = said.get("content") if isinstance(said, Mapping) else None
    if not isinstance(content, list) or not content:
        return None
    try:
        pairs = [_pair(token) for token in content]
        first = [_pair(token) for token in content[0].get("top_logprobs") or ()]
    except (TypeError, ValueError, LookupError, AttributeError):
        return None
    return TokenLogprobs(tuple(t for t, _ in pairs), tuple(p for _, p in pairs), tuple(first))


def _pair(token: Mapping[str, Any]) -> tuple[str, float]:
    value = float(token["logprob"])
    if math.isnan(value):
        raise ValueError("no number")
    return str(token["token"]), value
