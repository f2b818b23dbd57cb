"""A reply that came in pieces, put together again while somebody hears it grow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from viscot_core.openai_api.faults import Fault, Kind

CANCELLED = "cancelled"
"""``finish_reason`` where nobody waited for the rest."""


def join(
    blocks: Iterable[bytes], on_text: Callable[[str], None], cancelled: Callable[[], bool] | None
) -> dict[str, Any]:
    """The completion that a stream's bytes tell, in the form of one that is sent whole.

    ``on_text`` is told the text so far. An error in the middle of the stream comes back as one in a body.

    Raises:
        Fault: the stream ended before its text did.
    """
    text, thought, refusal, finish = "", "", "", None
    last: dict[str, Any] = {}
    calls: dict[int, dict[str, str]] = {}
    logprobs: list[Any] = []
    for event in _events(blocks):
        if event == b"[DONE]":
            break
        chunk = json.loads(event)
        if chunk.get("error"):
            return {"error": chunk["error"]}
        # The usage comes in a chunk of its own without choices, after the finish reason (``include_usage``).
        last |= {name: chunk[name] for name in ("usage", "model", "system_fingerprint") if chunk.get(name)}
        for choice in chunk["choices"]:
            finish = choice.get("finish_reason") or finish
            delta = choice.get("delta") or {}
            logprobs += (choice.get("logprobs") or {}).get("content") or ()
            thought += thought_of(delta)
            refusal += delta.get("refusal") or ""
            _join_calls(calls, delta.get("tool_calls"))
            if piece := delta.get("content"):
                text += piece
                if not "\ud800" <= text[-1] <= "\udbff":  # the other half of a pair is still to come
                    on_text(text)
        if cancelled is not None and cancelled():
            finish = CANCELLED
            break
    if finish is None:
        raise Fault(Kind.PASSING, "the reply was cut off", billed=True)
    sent = [{"id": call.pop("id"), "function": call} for _, call in sorted(calls.items())]
    apart = {"reasoning_content": thought, "refusal": refusal, "tool_calls": sent}
    message = {"content": text, **{name: words for name, words in apart.items() if words}}
    told = {"logprobs": {"content": logprobs}} if logprobs else {}
    return {"choices": [{"message": message, "finish_reason": finish, **told}], **last}


def _join_calls(calls: dict[int, dict[str, str]], pieces: Any) -> None:
    """Add the pieces of tool calls, which come under the index of their call, to what came before."""
    for piece in pieces or ():
        call = calls.setdefault(int(piece.get("index") or 0), {"id": "", "name": "", "arguments": ""})
        function = piece.get("function") or {}
        call["id"] = call["id"] or str(piece.get("id") or "")
        call["name"] = call["name"] or str(function.get("name") or "")
        call["arguments"] += function.get("arguments") or ""


def thought_of(message: Mapping[str, Any]) -> str:
    """What a message, or a piece of one, says of the model's thought: servers have two names for it."""
    said = message.get("reasoning_content") or message.get("reasoning")
    return said if isinstance(said, str) else ""


def _events(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events, a line each as OpenAI sends them.

    Lines end at line feeds only: httpx's ``iter_lines`` also splits at U+2028, which a JSON text may hold.
    """
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from (line[5:].strip() for line in lines if line.startswith(b"data:"))
    if rest.startswith(b"data:"):
        yield rest[5:].strip()
