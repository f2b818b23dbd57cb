"""The files that traces are trained from elsewhere: what a row is called there, and reading it back.

========== ================================================================================= ===========
format     a row                                                                             dialect
========== ================================================================================= ===========
viscot     LLaVA's ``{id, image: [a.jpg, a.jpg###[x0, y0, x1, y1]], conversations}``          viscot
mini-o3    ShareGPT's ``{images, conversations: [{from, value}]}``                            mini-o3
deepeyes   ``{messages: [{role, content}], images}``                                         deepeyes
ms-swift   ``{messages: [{role, content}], images}``                                         the trace's
llamafactory  the same; both read ``<image>`` marks in the order of ``images``               the trace's
trace      viscot's own line (``trace.py``)                                                  the trace's
========== ================================================================================= ===========
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscot_core.conversation import IMAGE, ROLES, Message
from viscot_core.data.annotations import split_crop
from viscot_core.data.rows import raw_rows
from viscot_core.errors import DataError

OWN_DIALECT = {"viscot": "viscot", "mini-o3": "mini-o3", "deepeyes": "deepeyes"}
"""Formats that are the files of one dialect."""
FORMATS = ("trace", "viscot", "deepeyes", "mini-o3", "ms-swift", "llamafactory")

_TO_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_FROM_SHAREGPT = {**{name: role for role, name in _TO_SHAREGPT.items()}, **ROLES}


@dataclass(frozen=True)
class CarriedRow:
    """A row of any format: its messages, and the image files of the ``<image>`` slots in reading order."""

    messages: tuple[Message, ...]
    images: tuple[str, ...]
    id: int | str | None = None
    reference: str | None = None

    @property
    def asked(self) -> int:
        """How many images the question has: those of the first message of the user."""
        first = next((message for message in self.messages if message.role == "user"), None)
        return first.text.count(IMAGE) if first else 0


def carry(form: str, row: CarriedRow) -> dict[str, Any]:
    """The row in the keys of ``form``."""
    known = {"id": row.id} if row.id is not None else {}
    if form == "viscot":
        turns = [{"from": _TO_SHAREGPT[m.role], "value": m.text} for m in row.messages]
        return {**known, "image": list(row.images), "conversations": turns}
    if form == "mini-o3":
        turns = [{"from": _TO_SHAREGPT[m.role], "value": m.text} for m in row.messages]
        return {**known, "images": list(row.images), "conversations": turns}
    said = [{"role": m.role, "content": m.text} for m in row.messages]
    return {**known, "messages": said, "images": list(row.images)}


def read_carried(path: Path) -> Iterator[CarriedRow]:
    """The rows of a file of any of these formats but ``trace``; a crop of ``###`` is no image of its own.

    Raises:
        DataError: a row that is none of them; names file and line.
    """
    for raw in raw_rows(path):
        data: Any = None
        try:
            data = json.loads(raw.data)
            images = data.get("images", data.get("image")) or ()
            images = [images] if isinstance(images, str) else images
            yield CarriedRow(
                tuple(map(_message, data.get("messages") or data["conversations"])),
                tuple(_path(image) for image in images),
                data.get("id"),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if _is_answer(data):
                raise DataError(
                    f"{path} has answers and no talks; 'viscot infer --policy zoom --trace FILE' and runs of "
                    "--policy zoom keep talks."
                ) from error
            raise DataError(
                f"{path}:{raw.line}: this is no conversation with images ({_reason(error)}); "
                f"the formats are {', '.join(FORMATS)}."
            ) from error


def _is_answer(data: object) -> bool:
    """Whether a row is what ``viscot infer`` or a run keeps of a question: its answer, and no talk."""
    return isinstance(data, dict) and {"question", "strategy", "status"} <= data.keys()


def _reason(error: Exception) -> str:
    """What a row lacks, in words."""
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "no valid JSON"
    if isinstance(error, KeyError):
        return f"no field or role {error}"
    return str(error) if type(error) is ValueError else "a field of another form"


def is_trace_file(path: Path) -> bool:
    """Whether the first row of a file is a trace."""
    first = next(iter(raw_rows(path)), None)
    return first is not None and b'"looks"' in first.data and b'"dialect"' in first.data


def _message(turn: dict[str, Any]) -> Message:
    role = turn["role"] if "role" in turn else _FROM_SHAREGPT[turn["from"]]
    text = turn["content"] if "content" in turn else turn["value"]
    if not isinstance(text, str) or role not in _TO_SHAREGPT:
        raise ValueError(f"a message of the role {role!r} without a text")
    return Message(role, text)


def _path(image: Any) -> str:
    # Hugging Face's files have {"path": ..} or {"bytes": ..}; without a path there is nothing to open.
    return split_crop(image["path"] if isinstance(image, dict) else image)[0]


def words_of(messages: Sequence[Message]) -> list[str]:
    """What the model said, turn by turn."""
    return [message.text for message in messages if message.role == "assistant"]
