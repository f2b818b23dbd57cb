"""What a row's keys mean: LLaVA's layout, OpenAI's messages in their dialects, traces, as one kind of row.

Field names are those of the projects that write them: LLaVA (``conversations``), LLaMA-Factory
(data/README.md: sharegpt and openai tags), ms-swift (Custom-dataset.md: ``objects`` with ``ref`` and
``bbox``, ``loss`` in a message), trl (``messages`` or ``prompt`` and ``completion``, content in parts, images
of ``datasets``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.conversation import IMAGE
from viscot_core.data.annotations import Conversation, Row, describe
from viscot_core.data.traces.trace import Trace
from viscot_core.errors import DataError


class RowLayout(StrEnum):
    """What a file's rows are written like."""

    LLAVA = "llava"
    MESSAGES = "messages"
    SWIFT = "ms-swift"
    TRL = "trl"
    TRACE = "trace"


class RowError(Exception):
    """One row is wrong: the ``kind`` to count by, the field, and a sentence."""

    def __init__(self, kind: str, field: str, says: str) -> None:
        super().__init__(says)
        self.kind, self.field, self.says = kind, field, says


class Objects(Row):
    """ms-swift's ``objects``: boxes in the order of the ``<bbox>`` marks, words of ``<ref-object>``.

    A box is ``(x0, y0, x1, y1)`` of the image whose number stands in ``images`` (default: the first), in
    pixels (``real``) or in 0..1 of the image's sides (``norm1``).
    """

    boxes: tuple[tuple[float, float, float, float], ...] = Field((), validation_alias="bbox")
    refs: tuple[str, ...] = Field((), validation_alias="ref")
    unit: Literal["real", "norm1"] = Field("real", validation_alias="bbox_type")
    images: tuple[Annotated[int, Field(ge=0)], ...] = Field((), validation_alias="image_id")


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row as the rest of viscot takes it, and what is still to be done with its boxes.

    ``objects`` of ms-swift need the sizes of the images; ``trace`` is the row's own record where it is one.
    """

    row: Conversation
    objects: Objects | None = None
    trace: Trace | None = None


TURNS = ("conversations", "turns", "messages")
"""The names of a row's list of messages."""
DATA, FILE, WEB = "data:", "file://", ("http://", "https://")
"""How the URL of an image starts."""
StoreImage = Callable[[bytes], str]
"""Keeps an image that is in the row itself; its name under the folder of images."""


def layout_of(row: Any) -> RowLayout:
    """The layout by the row's keys. Raises DataError where none of them is there."""
    keys = row.keys() if isinstance(row, dict) else ()
    if "looks" in keys:
        return RowLayout.TRACE
    if row and "objects" in keys and row["objects"]:
        return RowLayout.SWIFT
    if "prompt" in keys and "completion" in keys:
        return RowLayout.TRL
    if "conversations" in keys or "turns" in keys:
        return RowLayout.LLAVA
    if "messages" in keys:
        return RowLayout.MESSAGES
    found = ", ".join(map(str, keys)) or type(row).__name__
    raise DataError(
        f"its rows have neither conversations nor messages (they have: {found}); see docs/data-formats.md."
    )


def read_row(raw: Any, store: StoreImage) -> ReadRow:
    """One row of any layout.

    Raises:
        RowError: what is wrong with it.
    """
    try:
        layout = layout_of(raw)
    except DataError as error:
        raise RowError("layout", "", str(error)) from error
    try:
        if layout is RowLayout.TRACE:
            trace = Trace.model_validate(raw)
            return ReadRow(row_of_trace(trace), trace=trace)
        whole = _normal(raw, store)
        row = Conversation.model_validate(whole)
    except ValidationError as error:
        raise RowError("field", ".".join(map(str, error.errors()[0]["loc"])), describe(error)) from error
    if layout is not RowLayout.SWIFT:
        return ReadRow(row)
    return ReadRow(row, objects=_objects(raw["objects"]))


def row_of_trace(trace: Trace) -> Conversation:
    """A trace as a training row: images, then a crop for each look; only the model's words are learned."""
    for number, message in enumerate(trace.messages):
        if message.learned and message.role != "assistant":
            raise RowError("loss", f"messages.{number}.learn", "only the assistant's words can be learned")
    names = [name if window is None else exact_crop(name, window) for name, window in trace.views()]
    messages = [
        {"role": message.role, "content": message.content, "loss": message.learned}
        for message in trace.messages
    ]
    return Conversation.model_validate({"id": trace.id, "images": names, "messages": messages})


def exact_crop(name: str, window: tuple[int, int, int, int]) -> str:
    """An ``image`` entry for exactly these pixels of an image (a media fragment of the W3C, in pixels)."""
    x0, y0, x1, y1 = window
    return f"{name}#xywh={x0},{y0},{x1 - x0},{y1 - y0}"


def _normal(raw: dict[str, Any], store: StoreImage) -> dict[str, Any]:
    """The row with ``messages`` and ``images`` (paths), whatever they are called and wherever they stand."""
    row = {key: value for key, value in raw.items() if value is not None}
    if "prompt" in row and "completion" in row:
        row["messages"] = [*_as_messages(row.pop("prompt"), "user"), *_as_messages(row.pop("completion"))]
    name = next((key for key in TURNS if key in row), None)
    if name is None:
        raise RowError("field", "messages", "the row has no messages")
    turns = [
        {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else turn
        for turn in _listed(row[name], name)
    ]
    if isinstance(system := row.get("system"), str) and system.strip():
        turns = [{"role": "system", "content": system}, *turns]
    inline = list(_inline_images(turns))
    given = row.pop("images", row.pop("image", None))
    images = [given] if isinstance(given, str | dict) else _listed(given or [], "images")
    row["images"] = [_name(image, store) for image in images or inline]
    row[name] = turns
    return row


def _as_messages(value: Any, role: str = "assistant") -> list[Any]:
    return [{"role": role, "content": value}] if isinstance(value, str) else _listed(value, "prompt")


def _listed(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise RowError("field", field, f"{field} is a list, not {str(value)[:60]!r}")
    return list(value)


def _inline_images(turns: list[Any]) -> Iterator[Any]:
    """Images that stand in the parts of messages, in reading order."""
    for turn in turns:
        content = turn.get("content") if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") in ("image", "image_url"):
                found = part.get("image_url") or part.get("image") or part.get("path") or part.get("url")
                if found is not None:
                    yield found.get("url") if isinstance(found, dict) and "url" in found else found


def _name(image: Any, store: StoreImage) -> str:
    """The path of an image that a row names, or stores in itself as bytes or as a ``data:`` URL."""
    if isinstance(image, dict):
        data, path = image.get("bytes"), image.get("path")
        if isinstance(data, bytes) and data:
            return store(data)
        image = path
    if not isinstance(image, str) or not image:
        raise RowError("image", "images", f"an image is a path or bytes, not {str(image)[:60]!r}")
    if image.startswith(DATA):
        try:
            return store(base64.b64decode(image.partition(",")[2], validate=True))
        except (binascii.Error, ValueError) as error:
            raise RowError("image", "images", f"an image's data: URL is no base64 ({error})") from error
    if image.startswith(WEB):
        raise RowError("image", "images", f"{image[:80]} is a URL; download the image and write its path")
    return image.removeprefix(FILE)


def _objects(raw: Any) -> Objects:
    if not isinstance(raw, dict):
        raise RowError("boxes", "objects", "objects is {ref, bbox, bbox_type}")
    try:
        # A table has a null where a row has no such field.
        return Objects.model_validate({key: value for key, value in raw.items() if value is not None})
    except ValidationError as error:
        raise RowError("boxes", "objects", describe(error)) from error


def original(box: tuple[float, ...]) -> Box:
    """Four numbers in pixels as a box."""
    x0, y0, x1, y1 = box
    return Box(x0, y0, x1, y1, Frame.ORIGINAL)


def marks(row: Conversation) -> int:
    """How many ``<image>`` slots the row's messages have."""
    return sum(turn.text.count(IMAGE) for turn in row.turns if turn.role != "assistant")
