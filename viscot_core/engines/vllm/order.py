"""Which prompts go ahead: the first about an image, then the others about it, which find it encoded.

Asked at the same time, as many prompts as an image has would encode it, and none would find its prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class ImageOrder:
    """Prompts by number, with the keys of their images. Not safe for several threads at once."""

    _waiting: dict[int, frozenset[str]] = field(default_factory=dict)
    _begun: dict[int, frozenset[str]] = field(default_factory=dict)
    _read: dict[int, frozenset[str]] = field(default_factory=dict)
    _encoding: dict[str, int] = field(default_factory=dict)
    """Key of an image -> the prompt that has it encoded."""
    _ready: Counter[str] = field(default_factory=Counter)
    """Key of an image -> how many open prompts have read it."""

    def add(self, number: int, keys: Collection[str]) -> list[int]:
        """A new prompt; returns it where it may begin."""
        self._waiting[number] = frozenset(keys)
        return self._startable()

    def read(self, number: int) -> list[int]:
        """The model has read a prompt; returns those that may begin now, in the order they came."""
        keys = self._read[number] = self._begun.pop(number)
        self._forget_encoding(number, keys)
        self._ready.update(keys)
        return self._startable()

    def end(self, number: int) -> list[int]:
        """A prompt has ended, read or not; returns those that may begin now."""
        self._waiting.pop(number, None)
        self._forget_encoding(number, self._begun.pop(number, frozenset()))
        for key in self._read.pop(number, ()):
            self._ready[key] -= 1
            if not self._ready[key]:
                del self._ready[key]
        return self._startable()

    def _forget_encoding(self, number: int, keys: Collection[str]) -> None:
        for key in keys:
            if self._encoding.get(key) == number:
                del self._encoding[key]

    def _startable(self) -> list[int]:
        started = []
        for number, keys in list(self._waiting.items()):
            if any(key in self._encoding for key in keys):
                continue
            # While nobody is reading an image, whoever asks next has it encoded, or found again.
            self._encoding |= {key: number for key in keys if not self._ready[key]}
            self._begun[number] = self._waiting.pop(number)
            started.append(number)
        return started
