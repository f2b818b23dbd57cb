"""A file of pairs: one prompt, the reply that is preferred and the one that is not; a JSON object a line.

The names are those that trl's DPOTrainer reads (``images``, ``prompt``, ``chosen``, ``rejected``; its
documentation, "vision preference"): the three are lists of OpenAI messages, with an ``<image>`` slot for each
of the ``images`` in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import orjson
from pydantic import Field, ValidationError, model_validator

from viscot_core.conversation import IMAGE, Message
from viscot_core.data.annotations import Row, Rows, describe
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError
from viscot_core.files import atomic_write

Reply = Literal["chosen", "rejected"]
REPLIES: tuple[Reply, ...] = ("chosen", "rejected")


class PairMessage(Row):
    """One message, as OpenAI's protocol has it."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class PreferencePair(Row):
    """``scores`` are the rewards of both replies (``chosen``, ``rejected``), where they are known.

    ``images`` are paths; a crop is ``path###[x0, y0, x1, y1]`` in pixels, as in training rows.
    """

    id: int | str | None = None
    images: tuple[str, ...] = ()
    prompt: tuple[PairMessage, ...] = Field(min_length=1)
    chosen: tuple[PairMessage, ...] = Field(min_length=1, max_length=1)
    rejected: tuple[PairMessage, ...] = Field(min_length=1, max_length=1)
    scores: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> PreferencePair:
        slots = sum(message.content.count(IMAGE) for message in self.prompt if message.role != "assistant")
        if slots != len(self.images):
            raise ValueError(f"there are {slots} {IMAGE} slots for {len(self.images)} images")
        if any(message.role != "assistant" for message in (*self.chosen, *self.rejected)):
            raise ValueError("chosen and rejected are messages of the assistant")
        if self.chosen[0].content == self.rejected[0].content:
            raise ValueError("chosen and rejected are the same")
        return self

    def turns(self, reply: Reply) -> tuple[Message, ...]:
        """The prompt with one of the replies; only the reply is learned."""
        (said,) = self.chosen if reply == "chosen" else self.rejected
        before = tuple(Message(message.role, message.content, learned=False) for message in self.prompt)
        return (*before, Message("assistant", said.content))


def pair_in(rows: Mixture, index: int) -> PreferencePair:
    """The pair of a row of an opened file. Raises DataError where it is none."""
    try:
        return PreferencePair.model_validate_json(rows.raw(index))
    except ValidationError as error:
        raise DataError(
            f"{rows.path}: row {index}: {describe(error)}; a pair has images, prompt, chosen and rejected "
            "(viscot data prefs makes them)."
        ) from error


def read_pairs(path: Path | str) -> Iterator[PreferencePair]:
    """The pairs of a JSONL file (or a JSON list), one in memory.

    Raises:
        DataError: the file cannot be read, or a row is no pair; names file and line.
    """
    yield from Rows(path, PreferencePair)


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write a JSONL file, whole or not at all; returns the number of pairs."""
    written = 0
    with atomic_write(path) as file:
        for pair in pairs:
            line = orjson.dumps(pair.model_dump(exclude_none=True), option=orjson.OPT_APPEND_NEWLINE)
            file.write(line.decode())
            written += 1
    return written
