"""The visual chain of thought: name the region, look at its crop, answer (paper section 3, figure 3)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from viscot_core.boxes import WHOLE, Box, BoxStatus, CropPolicy, Size, Window, crop_window, parse_box
from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.errors import EngineError, UsageError
from viscot_core.images import View, crop, open_image, view_of
from viscot_core.prompts import IMAGE, Turn, answer_turns, detection_turns, direct_turns, render

Strategy = Literal["cot", "direct"]


@dataclass(frozen=True, slots=True)
class Question:
    """A picture (a path or RGB pixels) and what is asked about it."""

    image: Image.Image | Path | str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said and where it looked.

    ``box`` is in the padded square (0..1), ``crop`` in the picture's pixels; both are the whole picture where
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
    """Ask an engine about pictures in two turns, or in one (``direct``)."""

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
    ) -> Answer:
        """One question about one picture; a path's EXIF orientation is applied.

        Raises:
            ImageError: the picture cannot be read.
            UsageError: the question is empty or holds ``<image>``.
            EngineError: the model could not answer.
        """
        (answer,) = self.ask_many(
            [Question(image, question)], strategy=strategy, max_new_tokens=max_new_tokens
        )
        if answer.error is not None:
            raise EngineError(f"The model could not answer: {answer.error}.")
        return answer

    def ask_many(
        self, questions: Sequence[Question], *, strategy: Strategy = "cot", max_new_tokens: int = 128
    ) -> list[Answer]:
        """All first turns together, then all second turns; one answer per question, in order.

        A question that the engine cannot answer has ``error`` set; pictures and questions are checked first
        and raise as in ``ask``.
        """
        texts = [check_question(question.text) for question in questions]
        views = [_view(question.image) for question in questions]
        start = time.perf_counter()
        if strategy == "direct":
            said = self._generate(
                [direct_turns(text) for text in texts], [(view,) for view in views], max_new_tokens
            )
            share = _share(start, len(views))
            return [self._whole(view, one, share) for view, one in zip(views, said, strict=True)]
        first = self._generate(
            [detection_turns(text) for text in texts], [(view,) for view in views], max_new_tokens
        )
        boxes = [parse_box(one.text) for one in first]
        windows = [
            crop_window(parsed.box, view.image.size, self.crop_policy)
            for parsed, view in zip(boxes, views, strict=True)
        ]
        second = self._generate(
            [answer_turns(text, one.text) for text, one in zip(texts, first, strict=True)],
            [(view, crop(view, window)) for view, window in zip(views, windows, strict=True)],
            max_new_tokens,
        )
        share = _share(start, len(views))
        return [
            Answer(
                text=answered.text,
                box=parsed.box,
                crop=window,
                status=parsed.status,
                box_text=detected.text,
                size=view.image.size,
                seconds=share,
                error=detected.error or answered.error,
            )
            for view, parsed, window, detected, answered in zip(
                views, boxes, windows, first, second, strict=True
            )
        ]

    def _generate(
        self, turns: Sequence[Sequence[Turn]], views: Sequence[tuple[View, ...]], max_new_tokens: int
    ) -> list[Generation]:
        return self.engine.generate(
            [
                Request(render(each, self.engine.template, generate=True), shown, max_new_tokens)
                for each, shown in zip(turns, views, strict=True)
            ]
        )

    @staticmethod
    def _whole(view: View, said: Generation, seconds: float) -> Answer:
        size = view.image.size
        return Answer(said.text, WHOLE, (0, 0, *size), None, "", size, seconds, "direct", said.error)


def check_question(text: str) -> str:
    """The question without surrounding space.

    Raises:
        UsageError: it is empty, or holds ``<image>``, which marks a picture in a prompt.
    """
    text = text.strip()
    if not text:
        raise UsageError("The question is empty; write what you want to know about the picture.")
    if IMAGE in text:
        raise UsageError(
            f"The question holds {IMAGE}, which marks a picture in a prompt; write it otherwise."
        )
    return text


def _view(image: Image.Image | Path | str) -> View:
    if isinstance(image, Image.Image):
        return view_of(image.convert("RGB"))
    return view_of(open_image(image, exif=True))


def _share(start: float, count: int) -> float:
    return (time.perf_counter() - start) / max(count, 1)
