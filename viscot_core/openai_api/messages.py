"""Conversations and their images as the messages of a chat completion."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from PIL import Image

from viscot_core.boxes.formats import Resize
from viscot_core.conversation import IMAGE, Message, ToolCall, split_calls
from viscot_core.images.view import View
from viscot_core.openai_api.options import ImageForm


class Messages:
    """Makes messages; the last ``kept`` images stay encoded, for the next turn about them."""

    def __init__(self, resize: Resize | None, kept: int, form: ImageForm | None = None) -> None:
        self._resize = resize
        self._form = form or ImageForm()
        self._data_url = lru_cache(maxsize=kept)(self._encode)

    def of(self, turns: Sequence[Message], views: Sequence[View]) -> list[dict[str, Any]]:
        """One message per turn; ``views`` are the images of the ``<image>`` marks in reading order.

        Raises:
            ValueError: there are other marks than images, as where a question holds one.
        """
        slots = sum(turn.text.count(IMAGE) for turn in turns if turn.role != "assistant")
        if slots != len(views):
            raise ValueError(f"the prompt has {slots} {IMAGE} marks and {len(views)} images")
        images = iter(views)
        said: list[dict[str, Any]] = []
        open_calls: list[str] = []
        for turn in turns:
            if turn.role == "assistant":
                words, calls = split_calls(turn.text)
                open_calls = [call.id for call in calls]
                said.append({"role": "assistant", "content": words, **_sent(calls)})
            elif turn.role == "tool":
                if not open_calls:
                    raise ValueError("a tool's message answers no call")
                # In order: the protocol wants an answer for each call, under its id.
                said.append({"role": "tool", "tool_call_id": open_calls.pop(0), "content": turn.text})
            else:
                said.append(self._message(turn, images))
        return said

    def _message(self, turn: Message, views: Iterator[View]) -> dict[str, Any]:
        """``<image>`` becomes the next image; a line break after it goes, templates bring their own."""
        first, *rest = turn.text.split(IMAGE)
        if not rest:
            return {"role": turn.role, "content": first}
        parts: list[dict[str, Any]] = [{"type": "text", "text": first}] if first else []
        for text in rest:
            parts.append({"type": "image_url", "image_url": {"url": self._data_url(_ByKey(next(views)))}})
            if words := text.removeprefix("\n"):
                parts.append({"type": "text", "text": words})
        return {"role": turn.role, "content": parts}

    def _encode(self, keyed: _ByKey) -> str:
        image = keyed.view.image
        if self._resize is not None and (size := self._resize(image.size)) != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        form = self._form
        if form.max_side is not None and max(image.size) > form.max_side:
            image = image.copy()
            image.thumbnail((form.max_side, form.max_side), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        if form.format == "png":
            image.save(file, "PNG", compress_level=1)  # lossless: what is measured is the model, not a codec
        else:
            image.convert("RGB").save(file, form.format.upper(), quality=form.quality)
        return f"data:image/{form.format};base64," + base64.b64encode(file.getvalue()).decode()


def _sent(calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The calls of a message as the protocol has them; nothing where there are none."""
    sent = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]
    return {"tool_calls": sent} if sent else {}


class _ByKey:
    """A view that is equal to every view of the same content."""

    def __init__(self, view: View) -> None:
        self.view = view

    def __hash__(self) -> int:
        return hash(self.view.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByKey) and other.view.key == self.view.key
