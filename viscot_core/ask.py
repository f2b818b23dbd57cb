"""Ask a model about images from Python: ``viscot_core.load()`` makes a ``VisualCoT``.

This module opens images, checks questions and chooses the policy; ``rollout.run`` does the asking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Literal

from viscot_core.boxes.geometry import Box, CropPolicy, Frame, Size
from viscot_core.boxes.registry import codec
from viscot_core.conversation import IMAGE
from viscot_core.engines.base import DrawCount, Engine
from viscot_core.errors import EngineError, UsageError
from viscot_core.images.reading import ImageSource, open_image
from viscot_core.images.view import view_of
from viscot_core.policies.base import Answer, Policy, Question
from viscot_core.policies.direct import Direct
from viscot_core.policies.given_box import GivenBox
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.rollout import OnLook, run
from viscot_core.step_requests import OnText

Strategy = Literal["cot", "direct", "zoom"]
"""The public names of the policies ``two_turn``, ``direct`` and ``zoom``."""


class VisualCoT:
    """An engine that is asked about images in two turns (``cot``), in one (``direct``), or in as many as the
    model takes (``zoom``).

    ``wording`` says how the model is spoken to and how it writes boxes, ``zoom`` how it calls the zoom tool;
    without them, as viscot's models do. ``strategy`` is for questions that name none.

    Where the engine samples, each question draws with numbers of its own, and one that is asked again with
    other ones: the same calls in the same order give the same answers.
    """

    def __init__(
        self,
        engine: Engine,
        crop_policy: CropPolicy = CropPolicy.PAPER,
        *,
        wording: Wording | None = None,
        zoom: ZoomSettings | None = None,
        strategy: Strategy = "cot",
    ) -> None:
        self.engine = engine
        self.strategy: Strategy = strategy
        self.crop_policy = crop_policy
        self.wording = wording or Wording(codec("viscot"))
        self.zoom = zoom or ZoomSettings()
        self._draws = DrawCount()

    def ask(
        self,
        image: ImageSource,
        question: str,
        *,
        strategy: Strategy | None = None,
        max_new_tokens: int = 128,
        box: Sequence[float] | None = None,
        page: int | None = None,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Answer:
        """One question about one image; the image is given as ``open_image`` takes it, and
        read as a viewer shows it: its EXIF orientation applied, transparency on white.

        ``max_new_tokens`` bounds the words of the box and the answer, each. ``box`` (left, top, right, bottom
        in pixels of the image) is where to look: the model does not choose. ``page`` (from 1) is one of a PDF
        or TIFF. ``on_text`` is called with the answer so far whenever it gets longer, if the engine can do
        so; ``cancelled`` as in ``rollout.run``.

        Raises:
            ImageError: the image cannot be read, or has no such page.
            UsageError: the question is empty or contains ``<image>``; the box is none of this image;
                ``max_new_tokens`` is less than 1.
            EngineError: the model could not answer.
        """
        opened = image if page is None else open_image(image, as_seen=True, page=page)
        (answer,) = self.ask_many(
            [(opened, question)],
            strategy=strategy,
            max_new_tokens=max_new_tokens,
            box=box,
            on_text=None if on_text is None else lambda _, text: on_text(text),
            cancelled=cancelled,
        )
        if answer.error is not None:
            raise EngineError(f"The model could not answer: {answer.error}.")
        if page is not None:
            answer = replace(answer, source=_to_keep(image, opened), page=int(page))
        return answer

    def ask_many(
        self,
        questions: Sequence[tuple[ImageSource, str]],
        *,
        strategy: Strategy | None = None,
        max_new_tokens: int = 128,
        box: Sequence[float] | None = None,
        on_text: OnText | None = None,
        on_look: OnLook | None = None,
        cancelled: Callable[[], bool] | None = None,
        logprobs: bool | None = None,
        draws: Sequence[int | None] | None = None,
    ) -> list[Answer]:
        """One answer per pair of image and question, in order, asked together; ``box`` is for all of them.

        All images and questions are checked first, and a wrong one raises as in ``ask``. A question that the
        engine cannot answer has ``error`` set; the others have their answers. ``logprobs`` asks a server too
        how likely the words are (``Answer.answer_probability``); a model on this machine tells it anyway.
        ``draws`` says which numbers each one draws with where the engine samples (``Question.draw``).
        """
        strategy = strategy or ("cot" if box is not None else self.strategy)
        policy = policy_for(
            strategy, self.wording, self.crop_policy, box_tokens=max_new_tokens, zoom=self.zoom
        )
        if box is not None:
            if strategy != "cot":
                raise UsageError(f"A box is looked at in two turns; leave the strategy '{strategy}' out.")
            policy = GivenBox(self.wording, self.crop_policy)
        asked = [
            replace(prepare_question(image, text, box=box, max_new_tokens=max_new_tokens), draw=draw)
            for (image, text), draw in zip(questions, draws or [None] * len(questions), strict=True)
        ]
        answers = run(
            policy,
            self.engine,
            asked,
            on_text=on_text,
            on_look=on_look,
            cancelled=cancelled,
            draws=self._draws,
            logprobs=logprobs,
        )
        return [
            replace(answer, question=question.text, source=_to_keep(image, question.images[0].image))
            for answer, question, (image, _) in zip(answers, asked, questions, strict=True)
        ]


def policy_for(
    strategy: str,
    wording: Wording,
    crop_policy: CropPolicy = CropPolicy.PAPER,
    *,
    box_tokens: int = 128,
    zoom: ZoomSettings | None = None,
) -> Policy:
    """The policy behind a strategy's public name.

    Raises:
        UsageError: there is no such strategy.
    """
    if strategy == "cot":
        return TwoTurn(wording, crop_policy, box_tokens=box_tokens)
    if strategy == "direct":
        return Direct(wording)
    if strategy == "zoom":
        return (zoom or ZoomSettings()).policy(box_tokens)
    raise UsageError(f"There is no strategy '{strategy}'; choose cot, direct or zoom.")


def prepare_question(
    image: ImageSource,
    text: str,
    *,
    box: Box | Sequence[float] | None = None,
    max_new_tokens: int = 128,
    stop: tuple[str, ...] = (),
) -> Question:
    """A checked question about an opened image; raises as ``VisualCoT.ask`` does."""
    text = check_question(text)
    check_new_tokens(max_new_tokens)
    view = view_of(open_image(image, as_seen=True))
    if box is not None and not isinstance(box, Box):
        box = box_in(box, view.image.size)
    return Question(text, (view,), box, max_new_tokens=max_new_tokens, stop=stop)


def box_in(corners: Sequence[float], size: Size) -> Box:
    """A box that a person gave, in pixels of an image of ``size``, in the padded square; cut at the border.

    Raises:
        UsageError: it is no box, lies outside of the image, or is in shares of its sides.
    """
    check_corners(corners)
    x0, y0, x1, y1 = map(float, corners)
    box = Box(x0, y0, x1, y1, Frame.ORIGINAL).clip(size)
    if not (box.width > 0 and box.height > 0):
        raise UsageError(
            f"The box {list(corners)} has no part in the image of {size[0]} x {size[1]} pixels; "
            "a box is left, top, right, bottom."
        )
    return box.to_square(size)


def check_corners(corners: Sequence[float]) -> None:
    """Raises UsageError: ``corners`` are no box in pixels, whatever the image."""
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        raise UsageError(f"A box is left, top, right, bottom in pixels, not {list(corners)}.")
    if all(0 <= c <= 1 for c in corners):  # one pixel at most: nobody means that
        raise UsageError(
            f"The box {list(corners)} is in shares of the image; give left, top, right, bottom in pixels."
        )


def _to_keep(image: ImageSource, opened: ImageSource) -> ImageSource:
    """What opens the image once more: what was given, unless it can be read only once."""
    if isinstance(image, str | Path):
        return image if Path(image).is_file() else opened
    return opened if hasattr(image, "read") else image


def check_new_tokens(count: object) -> None:
    """Raises UsageError: ``count`` is no limit that leaves room for an answer."""
    if not isinstance(count, Integral) or int(count) < 1:
        raise UsageError(f"max_new_tokens is a whole number, 1 or more, not {count!r}.")


def check_question(text: str) -> str:
    """The question without surrounding white space.

    Raises:
        UsageError: it is empty, is no Unicode text, or has ``<image>``, which marks an image in a prompt.
    """
    text = text.strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "The question has a damaged character (no valid Unicode); write it again."
        ) from error
    if not text:
        raise UsageError("The question is empty; write what you want to know about the image.")
    if IMAGE in text:
        raise UsageError(f"The question contains {IMAGE}, which marks an image in a prompt; remove it.")
    return text
