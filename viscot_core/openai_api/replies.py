"""Replies of servers, and a folder that keeps them by the content of their request.

The same question is never paid for twice. One small file per request, written whole or not at all; a damaged
one counts as absent and is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscot_core.conversation import thought_end


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """``tokens`` as text, ``values`` the natural logarithm of each one's probability.

    ``first`` are the likeliest tokens at the first place, where they were asked for.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    first: tuple[tuple[str, float], ...] = ()

    def thought_tokens(self, thought: str) -> int:
        """How many of them come before the answer; ``thought`` is what the server sent apart from it."""
        said = "".join(self.tokens)
        end = thought_end(said)
        # Without marks, as where the server cut them out: the thought's words come first.
        if not end and thought and said.lstrip().startswith(thought[:40].strip()):
            end = said.find(thought) + len(thought)
        reached = 0
        for count, token in enumerate(self.tokens):
            if reached >= end:
                return count
            reached += len(token)
        return len(self.tokens)


@dataclass(frozen=True)
class Reply:
    """A chat completion.

    Attributes:
        text: what was said; None where the server gave no text at all.
        logprobs: probabilities of its tokens, where they were asked for and the server tells them.
        thought: what a reasoning model thought before, where the server sends it apart.
        finish: why it ended: ``stop``, ``length``, ...; ``cancelled`` where nobody waited for the rest.
        tokens_in, tokens_out: the server's count of tokens read and written; 0 where it counts none.
        model: what the server calls its model.
        version: what the server says of itself (``system_fingerprint``); not kept on disk.
    """

    text: str | None
    finish: str | None
    tokens_in: int = 0
    tokens_out: int = 0
    model: str = ""
    thought: str = ""
    logprobs: TokenLogprobs | None = None
    version: str = ""

    @property
    def truncated(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish in CUT


CUT = frozenset(("length", "max_tokens", "model_length"))
"""Finish reasons of a reply that the token limit cut: OpenAI's, and those of other servers."""


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """The sha256 that names a request: where it goes and every field of it (model, words, temperature)."""
    canonical = json.dumps([url, body], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class ReplyCache:
    """JSON objects with a ``reply`` under ``folder/ab/abcdef….json``; several threads may use one.

    Engines of earlier versions kept ``reply``, ``tokens`` and ``finished``, judges ``reply`` and ``model``:
    both are read, and both find their fields in what is written now. ``damaged`` counts unreadable entries.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0

    def get(self, key: str) -> Reply | None:
        """The kept reply; None where there is none, or none that can be read."""
        try:
            return _reply_of(json.loads(self._path(key).read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            self.damaged += 1
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep ``reply``, which has a text."""
        entry = {
            "reply": reply.text,
            "tokens": reply.tokens_out,
            "finished": reply.finish == "stop",
            "finish": reply.finish,
            "prompt_tokens": reply.tokens_in,
            "model": reply.model,
            **({"thought": reply.thought} if reply.thought else {}),
            **({"logprobs": _to_keep(reply.logprobs)} if reply.logprobs else {}),
        }
        path = self._path(key)
        # Named by process and thread: several may keep the same request at once.
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        content = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            temporary.write_bytes(content)
        # One of 256 folders, nearly always there: made only when it is missing.
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _reply_of(entry: dict[str, Any]) -> Reply:
    """An entry of any version. Raises ValueError and the like for one that is damaged."""
    text = entry["reply"]
    if not isinstance(text, str):
        raise ValueError("an entry without a text")
    finish = entry.get("finish") or ("stop" if entry.get("finished", True) else "length")
    tokens = int(entry.get("prompt_tokens", 0)), int(entry.get("tokens", 0))
    return Reply(
        text,
        str(finish),
        *tokens,
        str(entry.get("model", "")),
        str(entry.get("thought", "")),
        _kept_logprobs(entry.get("logprobs")),
    )


def _kept_logprobs(entry: Any) -> TokenLogprobs | None:
    """What ``_to_keep`` made."""
    if entry is None:
        return None
    first = tuple((str(token), float(value)) for token, value in entry["first"])
    return TokenLogprobs(tuple(map(str, entry["tokens"])), tuple(map(float, entry["values"])), first)


def _to_keep(found: TokenLogprobs) -> dict[str, Sequence[Any]]:
    """As JSON."""
    return {"tokens": found.tokens, "values": found.values, "first": found.first}
