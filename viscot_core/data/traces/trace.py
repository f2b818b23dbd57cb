"""Traces: what was asked, every look with its crop, what was said; one JSON object a line.

A trace is both a record of a run and a row to train on. Its messages are OpenAI's (``role``, ``content``)
with an ``<image>`` slot for every image; the slots in reading order are the ``images``, then one crop for
each of the ``looks``. Boxes and crops are in pixels of the stored image, so a trace keeps no pixels: a crop
is cut again, and its hash says whether it is the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from PIL import Image
from pydantic import Field, ValidationError, model_validator

from viscot_core.boxes.geometry import Box, Frame, Window
from viscot_core.conversation import IMAGE, Message
from viscot_core.data.annotations import Row, Rows, describe
from viscot_core.data.traces.showing import draw_trace, trace_html
from viscot_core.errors import DataError, ImageError
from viscot_core.files import atomic_write, folder_for, naming
from viscot_core.images.reading import open_image
from viscot_core.paths import inside
from viscot_core.policies.base import Answer, Look

Role = Literal["system", "user", "assistant", "tool"]


class TraceMessage(Row):
    """One message; ``<image>`` in a text that is not the assistant's is an image slot.

    ``learn`` says whether training supervises it; None: if it is the assistant's.
    """

    role: Role
    content: str
    learn: bool | None = None

    @property
    def learned(self) -> bool:
        return self.role == "assistant" if self.learn is None else self.learn


class TraceLook(Row):
    """One look. ``box`` is what was named and ``crop`` what was cut, in pixels of the image ``image``.

    ``source`` is the number of the talk's image that the box was named in (images first, then crops),
    ``turn`` the model's turn (from 1), ``shown`` the width and height in which the crop was shown, ``hash``
    the sha256 of those pixels. ``tokens`` and ``seconds`` are those of the turn. In a talk of an audit
    ``replaced`` names what was shown instead of ``crop``.
    """

    box: tuple[float, float, float, float]
    crop: tuple[int, int, int, int]
    image: int = 0
    source: int = 0
    turn: int = 1
    shown: tuple[int, int] | None = None
    hash: str = ""
    status: Literal["ok", "repaired", "unparsable"] | None = None
    named_by: Literal["model", "given"] = "model"
    tokens: int | None = None
    seconds: float | None = None
    replaced: str | None = None


class TraceError(Row):
    """A call that was not made: in which turn of the model (from 1), why, and its words."""

    turn: int
    reason: str
    call: str = ""


class Trace(Row):
    """One talk. ``images`` are paths; ``stop`` says why it ended (``answer``, ``looks``, ``refusals``...).

    ``reference_box`` is the annotated region, in pixels of the first image.
    """

    id: int | str | None = None
    question: str = ""
    images: tuple[str, ...] = ()
    messages: tuple[TraceMessage, ...] = Field(min_length=1)
    looks: tuple[TraceLook, ...] = ()
    errors: tuple[TraceError, ...] = ()
    answer: str = ""
    reference: str | None = None
    reference_box: tuple[float, float, float, float] | None = None
    stop: str = "answer"
    policy: str = "zoom"
    dialect: str = "viscot"
    crop_from: Literal["original", "seen"] = "original"
    tokens: int | None = None
    seconds: float | None = None
    scores: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _images_fit(self) -> Trace:
        if self.stop == "error":  # the talk may have ended for this very reason
            return self
        slots = sum(message.content.count(IMAGE) for message in self.messages if message.role != "assistant")
        if slots != len(self.images) + len(self.looks):
            raise ValueError(
                f"there are {slots} {IMAGE} slots for {len(self.images)} images and {len(self.looks)} looks"
            )
        if any(look.image >= len(self.images) for look in self.looks):
            raise ValueError("a look names an image that the trace does not have")
        return self

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages as the rest of viscot takes them."""
        return tuple(Message(message.role, message.content) for message in self.messages)

    def views(self) -> list[tuple[str, Window | None]]:
        """Path and window (pixels of the stored image; None: all of it) of each slot, in reading order."""
        whole: list[tuple[str, Window | None]] = [(path, None) for path in self.images]
        return whole + [(self.images[look.image], look.crop) for look in self.looks]

    def draw(self, folder: Path | str = ".", *, height: int = 420) -> Image.Image:
        """The looks as numbered steps; ``folder`` is what the paths of the images are relative to.

        Raises:
            ImageError, DataError: an image cannot be read, or lies outside of ``folder``.
        """
        images = [open_image(inside(Path(folder), path)) for path in self.images]
        return draw_trace(self, images, height=height)

    def _repr_html_(self) -> str:
        """The talk as notebooks show it: drawn where its images are found from here, and in words."""
        try:
            return trace_html(self, self.draw() if self.images else None)
        except (ImageError, DataError):
            return trace_html(self)

    def to_row(self) -> dict[str, Any]:
        """The line's keys; what is not known is left out."""
        row = self.model_dump(exclude_none=True)
        return {key: value for key, value in row.items() if value != {} or key != "scores"}


def trace_of(
    answer: Answer,
    *,
    images: Sequence[str],
    question: str,
    dialect: str,
    crop_from: str,
    id: int | str | None = None,
    reference: str | None = None,
    box: Box | None = None,
) -> Trace:
    """The trace of an answer that a policy with ``messages`` gave; ``box``: the annotated region, pixels."""
    return Trace(
        id=id,
        question=question,
        images=tuple(images),
        messages=tuple(TraceMessage(role=m.role, content=m.text) for m in answer.messages),
        looks=tuple(_look(look, answer) for look in answer.looks if look.crop is not None),
        errors=tuple(
            TraceError(turn=refusal.turn, reason=refusal.reason, call=refusal.call)
            for refusal in answer.refusals
        ),
        answer=answer.text,
        reference=reference,
        reference_box=None if box is None else box.coords,
        stop="error" if answer.error is not None else "length" if answer.truncated else answer.stop,
        policy=answer.policy,
        dialect=dialect,
        crop_from=crop_from,
        tokens=answer.tokens,
        seconds=round(answer.seconds, 4),
    )


def _look(look: Look, answer: Answer) -> TraceLook:
    tokens, seconds = answer.costs[look.turn - 1] if look.turn <= len(answer.costs) else (None, None)
    return TraceLook(
        box=tuple(round(c, 2) for c in look.box_pixels.coords),
        crop=look.crop,
        image=look.image,
        source=look.source,
        turn=look.turn,
        shown=look.shown,
        hash=look.crop_hash,
        status=look.status.value if look.status else None,
        named_by=look.named_by,
        tokens=tokens,
        seconds=None if seconds is None else round(seconds, 4),
        replaced=look.replaced or None,
    )


def box_of(look: TraceLook) -> Box:
    """The box of a look, in pixels of its image."""
    return Box(*look.box, frame=Frame.ORIGINAL)


def trace_in(row: Mapping[str, Any]) -> Trace:
    """The trace of a row that a run folder keeps. Raises DataError where it is none."""
    try:
        return Trace.model_validate(row)
    except ValidationError as error:
        raise DataError(f"a trace is damaged ({describe(error)})") from error


def read_traces(path: Path | str) -> Iterator[Trace]:
    """The traces of a JSONL file (or a JSON list), one in memory.

    Raises:
        DataError: the file cannot be read, or a line is no trace; names file and line.
    """
    yield from Rows(path, Trace)


def write_traces(path: Path, traces: Iterable[Trace]) -> int:
    """Write a JSONL file, whole or not at all; returns the number of traces."""
    written = 0
    with atomic_write(path) as file:
        for trace in traces:
            file.write(trace_line(trace).decode())
            written += 1
    return written


def append_trace(path: Path, trace: Trace) -> None:
    """Add a line to a file of traces; the file is made where it is missing."""
    with folder_for(path), naming(path), path.open("ab") as file:
        file.write(trace_line(trace))


def trace_line(trace: Trace) -> bytes:
    """The line of a file of traces, newline included."""
    return orjson.dumps(trace.to_row(), option=orjson.OPT_APPEND_NEWLINE)
