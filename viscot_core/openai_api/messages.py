"""Conversations and their images as the messages of a chat completion."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from PIL import Image

from viscot_core.boxes.formats import Resize
from viscot_core.conversation import IMAGE, Message, ToolCall, split_calls
from viscot_core.families.base import Square
from viscot_core.images.view import View
from viscot_core.openai_api.options import ImageForm


class Messages:
    """Makes messages; the last ``kept`` images stay encoded, for the next turn about them.

    ``square`` is what the model sees of every image: of a larger one, that is sent.
    """

    def __init__(
        self,
        resize: Resize | None,
        kept: int,
        form: ImageForm | None = None,
        square: Square | None = None,
    ) -> None:
        self._resize, self._square = resize, square
        self._form = form or ImageForm()
        self._encoded = _Kept(self._encode, kept)

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
            parts.append({"type": "image_url", "image_url": {"url": self._encoded.of(next(views))}})
            if words := text.removeprefix("\n"):
                parts.append({"type": "text", "text": words})
        return {"role": turn.role, "content": parts}

    def _encode(self, view: View) -> str:
        image = view.image
        if self._square is not None and image.width * image.height > self._square.side**2:
            image = self._square.of(image)
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


class _Kept:
    """The last ``most`` views that were encoded; calls that want one at the same time share one encoding."""

    def __init__(self, encode: Callable[[View], str], most: int) -> None:
        self._encode, self._most = encode, most
        self._found: OrderedDict[str, Future[str]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, view: View) -> str:
        """The data URL of ``view``; raises what encoding it raises."""
        with self._lock:
            found = self._found.get(view.key)
            if mine := found is None:
                found = self._found[view.key] = Future()
                if len(self._found) > self._most:
                    self._found.popitem(last=False)  # whoever waits for it still gets it
            self._found.move_to_end(view.key)
        assert found is not None
        if mine:
            try:
                found.set_result(self._encode(view))
            except BaseException as error:  # noqa: BLE001 - raised again for all who wait
                with self._lock:  # what failed is tried anew by the next call
                    if self._found.get(view.key) is found:
                        del self._found[view.key]
                found.set_exception(error)
        return found.result()
