"""The visual chain of thought: name the region, look at its crop, answer (paper section 3, figure 3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import Image

from viscot_core.boxes.geometry import (
    WHOLE,
    Box,
    BoxStatus,
    CropPolicy,
    ParsedBox,
    Size,
    Window,
    crop_window,
    format_box,
    parse_box,
)
from viscot_core.conversation import IMAGE, Message, answer_turns, detection_turns, direct_turns
from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.errors import EngineError, UsageError
from viscot_core.families.llava.template import render
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop, view_of

Strategy = Literal["cot", "direct"]
Hear = Callable[[int, str], None]
"""``(number of the question, its answer so far)``, as ``Request.on_text`` is told; boxes are not."""


@dataclass(frozen=True, slots=True)
class Question:
    """An image (a path or RGB pixels) and what is asked about it."""

    image: Image.Image | Path | str
    text: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question that may be asked: checked words and an opened image."""

    view: View
    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """What came of turn 1: the region and its crop window (pixels); ``error`` where the engine failed."""

    question: Prepared
    parsed: ParsedBox
    window: Window
    seconds: float = 0.0
    error: str | None = None

    @property
    def crop(self) -> View:
        """The image inside the window, as turn 2 shows it."""
        return crop(self.question.view, self.window)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said and where it looked.

    ``box`` is in the padded square (0..1), ``crop`` in the image's pixels; both are the whole image where
    no box could be read (``status`` unparsable) or none was asked for (strategy direct, ``status`` None).
    ``error`` says why there is no text; ``seconds`` is this question's share of its batch.
    """

    text: str
    box: Box
    crop: Window
    status: BoxStatus | None
    box_text: str
    size: Size
    seconds: float
    strategy: Strategy = "cot"
    error: str | None = None


class VisualCoT:
    """Ask an engine about images in two turns, or in one (``direct``)."""

    def __init__(self, engine: Engine, crop_policy: CropPolicy = CropPolicy.PAPER) -> None:
        self.engine = engine
        self.crop_policy = crop_policy

    def ask(
        self,
        image: Image.Image | Path | str,
        question: str,
        *,
        strategy: Strategy = "cot",
        max_new_tokens: int = 128,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """One question about one image; a path's EXIF orientation is applied.

        ``on_text`` is told the answer so far, token by token, where the engine can.

        Raises:
            ImageError: the image cannot be read.
            UsageError: the question is empty or holds ``<image>``.
            EngineError: the model could not answer.
        """
        (answer,) = self.ask_many(
            [Question(image, question)],
            strategy=strategy,
            max_new_tokens=max_new_tokens,
            on_text=None if on_text is None else lambda _, text: on_text(text),
        )
        if answer.error is not None:
            raise EngineError(f"The model could not answer: {answer.error}.")
        return answer

    def ask_many(
        self,
        questions: Sequence[Question],
        *,
        strategy: Strategy = "cot",
        max_new_tokens: int = 128,
        on_text: Hear | None = None,
    ) -> list[Answer]:
        """All first turns together, then all second turns; one answer per question, in order.

        A question that the engine cannot answer has ``error`` set; images and questions are checked first
        and raise as in ``ask``.
        """
        prepared = self.prepare(questions)
        if strategy == "direct":
            return self.direct(prepared, max_new_tokens=max_new_tokens, on_text=on_text)
        looks = self.look(prepared, max_new_tokens=max_new_tokens)
        return self.answer(looks, max_new_tokens=max_new_tokens, on_text=on_text)

    def prepare(self, questions: Sequence[Question]) -> list[Prepared]:
        """Check the questions and open their images; raises as ``ask`` does."""
        return [Prepared(_view(question.image), check_question(question.text)) for question in questions]

    def look(self, prepared: Sequence[Prepared], *, max_new_tokens: int = 128) -> list[Look]:
        """Turn 1: where the model wants to look, one for each question."""
        start = time.perf_counter()
        said = self._generate(
            [detection_turns(each.text) for each in prepared],
            [(each.view,) for each in prepared],
            max_new_tokens,
        )
        share = _share(start, len(prepared))
        return [
            self._look(each, parse_box(one.text), share, one.error)
            for each, one in zip(prepared, said, strict=True)
        ]

    def look_at(self, prepared: Prepared, box: Box) -> Look:
        """Turn 1 as if the model had named ``box`` (SQUARE frame): a person points, the model answers."""
        return self._look(prepared, ParsedBox(box, BoxStatus.OK, format_box(box)), 0.0, None)

    def answer(
        self,
        looks: Sequence[Look],
        *,
        max_new_tokens: int = 128,
        stop: tuple[str, ...] = (),
        on_text: Hear | None = None,
    ) -> list[Answer]:
        """Turn 2: answers after a look at each crop, in order; ``stop`` as a ``Request``'s."""
        start = time.perf_counter()
        said = self._generate(
            [answer_turns(look.question.text, look.parsed.text) for look in looks],
            [(look.question.view, look.crop) for look in looks],
            max_new_tokens,
            stop,
            on_text,
        )
        share = _share(start, len(looks))
        return [
            Answer(
                text=one.text,
                box=look.parsed.box,
                crop=look.window,
                status=look.parsed.status,
                box_text=look.parsed.text,
                size=look.question.view.image.size,
                seconds=look.seconds + share,
                error=look.error or one.error,
            )
            for look, one in zip(looks, said, strict=True)
        ]

    def direct(
        self,
        prepared: Sequence[Prepared],
        *,
        max_new_tokens: int = 128,
        stop: tuple[str, ...] = (),
        on_text: Hear | None = None,
    ) -> list[Answer]:
        """Answers in one turn, from the whole images, in order."""
        start = time.perf_counter()
        said = self._generate(
            [direct_turns(each.text) for each in prepared],
            [(each.view,) for each in prepared],
            max_new_tokens,
            stop,
            on_text,
        )
        share = _share(start, len(prepared))
        return [self._whole(each.view, one, share) for each, one in zip(prepared, said, strict=True)]

    def _look(self, question: Prepared, parsed: ParsedBox, seconds: float, error: str | None) -> Look:
        window = crop_window(parsed.box, question.view.image.size, self.crop_policy)
        return Look(question, parsed, window, seconds, error)

    def _generate(
        self,
        turns: Sequence[Sequence[Message]],
        views: Sequence[tuple[View, ...]],
        max_new_tokens: int,
        stop: tuple[str, ...] = (),
        on_text: Hear | None = None,
    ) -> list[Generation]:
        return self.engine.generate(
            [
                Request(
                    render(each, self.engine.template, generate=True),
                    shown,
                    max_new_tokens,
                    stop,
                    on_text=None if on_text is None else partial(on_text, number),
                )
                for number, (each, shown) in enumerate(zip(turns, views, strict=True))
            ]
        )

    @staticmethod
    def _whole(view: View, said: Generation, seconds: float) -> Answer:
        size = view.image.size
        return Answer(said.text, WHOLE, (0, 0, *size), None, "", size, seconds, "direct", said.error)


def check_question(text: str) -> str:
    """The question without surrounding space.

    Raises:
        UsageError: it is empty, or holds ``<image>``, which marks an image in a prompt.
    """
    text = text.strip()
    if not text:
        raise UsageError("The question is empty; write what you want to know about the image.")
    if IMAGE in text:
        raise UsageError(f"The question holds {IMAGE}, which marks an image in a prompt; write it otherwise.")
    return text


def _view(image: Image.Image | Path | str) -> View:
    if isinstance(image, Image.Image):
        return view_of(image.convert("RGB"))
    return view_of(open_image(image, exif=True))


def _share(start: float, count: int) -> float:
    return (time.perf_counter() - start) / max(count, 1)
