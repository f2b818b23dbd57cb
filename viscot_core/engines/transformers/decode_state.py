"""What is said after one prompt, token by token: told as it grows, over at its end, its limit or a stop text.

Both ways of decoding (``local.py``, ``prefix.py``) feed their tokens into one of these, so that a text is
cut, counted and told in one place, alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from viscot_core.engines.base import Generation, Request
from viscot_core.families.llava.chat import ChatTokenizer
from viscot_core.images.view import View


class Speech:
    """The new tokens of ``request``, at most ``limit``."""

    def __init__(self, tokens: ChatTokenizer, request: Request, limit: int, prompt_tokens: int = 0) -> None:
        self.limit = limit
        self._prompt_tokens = prompt_tokens
        self._tokens = tokens
        self._request = request
        self._listens = bool(request.stop) or request.on_text is not None
        self.begin()

    def begin(self) -> None:
        """Forget what was said: the prompt is continued once more."""
        self.open = True
        self._ids: list[int] = []
        self._ended = False
        self._told = ""

    def add(self, token: int) -> None:
        """The next token; it is ignored once the speech is over."""
        if not self.open:
            return
        if self._request.cancelled is not None and self._request.cancelled():
            self.open = False
            return
        if token == self._tokens.eos_id:
            self.open, self._ended = False, True
            return
        self._ids.append(token)
        self.open = len(self._ids) < self.limit
        if self._listens:
            self._listen()

    def generation(self) -> Generation:
        """What was said so far."""
        text, stopped = _before_stop(self._tokens.text(self._ids), self._request.stop)
        return Generation(
            text.strip(),
            len(self._ids) + self._ended,
            self._ended or stopped,
            prompt_tokens=self._prompt_tokens,
        )

    def _listen(self) -> None:
        """End at a stop text; tell what can no longer change."""
        text, stopped = _before_stop(self._tokens.settled_text(self._ids), self._request.stop)
        if stopped:
            self.open = False
        else:
            text = text[: len(text) - _begun_stop(text, self._request.stop)]
        text = text.strip()
        if self._request.on_text is not None and text != self._told:
            self._told = text
            self._request.on_text(text)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with image tokens expanded, the views they stand for, and what is said after them."""

    ids: list[int]
    views: tuple[View, ...]
    speech: Speech


def _before_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one."""
    found = [place for each in stop if (place := text.find(each)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _begun_stop(text: str, stop: Sequence[str]) -> int:
    """How many characters at the text's end may be the beginning of a stop text."""
    begun = [size for each in stop for size in range(1, len(each)) if text.endswith(each[:size])]
    return max(begun, default=0)
