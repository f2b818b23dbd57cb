"""Look as often as it takes: the model calls a zoom tool, sees the crop, calls again or answers.

The dialect says how a call is written and how its crop is shown; this module keeps the limits, cuts the
crops and counts. Every image of the talk (the question's, then each crop) can be a source of the next crop,
so a crop of a crop is a look like any other. A call that cannot be made goes back to the model as the
dialect's error, and is counted; nothing that a model writes raises here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from viscot_core.boxes.geometry import Box, CropPolicy, Frame, Size, Window, crop_window
from viscot_core.conversation import IMAGE, Message, split_thought
from viscot_core.errors import UsageError
from viscot_core.images.view import View, crop, view_of
from viscot_core.policies.base import Answer, Look, Question, Refusal, Step
from viscot_core.policies.dialects.base import Call, Dialect, Reading, Result, Situation
from viscot_core.policies.zoom_window import Refused, shown_size, window_of

CropFrom = Literal["original", "seen"]
CROPS_FROM: tuple[CropFrom, ...] = ("original", "seen")

MOST_IMAGES = 16
MOST_REFUSALS = 3
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
NO_LOOK_LEFT = "no look is left; answer now"


@dataclass(frozen=True)
class Zoom:
    """A talk of at most ``looks`` crops and ``most_images`` images (the question's count).

    ``crop_from`` says which pixels a crop has: those of the stored image, or those of the image that was
    shown, which may be smaller. ``most_pixels`` is the largest area in which an image or a crop is shown
    (None: the dialect's own limit for crops, none for the question's images). After ``most_refusals``
    refused calls the next one ends the talk without an answer. ``turn_tokens`` limits each turn.
    """

    dialect: Dialect
    looks: int
    crop_from: CropFrom = "original"
    most_images: int = MOST_IMAGES
    most_pixels: int | None = None
    most_refusals: int = MOST_REFUSALS
    turn_tokens: int = 128
    name: str = "zoom"

    def __post_init__(self) -> None:
        if self.looks < 1 or self.most_images < 1 or self.most_refusals < 0:
            raise UsageError("A zoom has at least one look and one image.")
        if self.crop_from not in CROPS_FROM:
            raise UsageError(f"--crop-from is original or seen, not '{self.crop_from}'.")

    def start(self, question: Question) -> Step:
        """The question with its images, and the tool's description."""
        messages = self.dialect.ask(question.text, len(question.images))
        shown = tuple(self._shown(view) for view in question.images)
        return self._step(Step(question, messages, shown, tools=self.dialect.tools))

    def next(self, step: Step, text: str) -> Step | Answer:
        """What the calls of a turn bring to see, or the answer."""
        read = text if self.dialect.keeps_thoughts else split_thought(text).text
        reply = self.dialect.parse(read, len(step.question.images))
        messages = (*step.messages, Message("assistant", reply.said))
        turn = sum(message.role == "assistant" for message in messages)
        if reply.ignored:
            step = replace(step, refusals=(*step.refusals, Refusal(turn, reply.ignored)))
        if not reply.calls:
            return self._answer(step, messages, "answer", split_thought(reply.answer).text)
        step, results = self._results(replace(step, messages=messages), reply, turn)
        refused = sum(not refusal.ignored for refusal in step.refusals)
        if refused > self.most_refusals:
            spent = any(result.refused == NO_LOOK_LEFT for result in results)
            return self._answer(step, messages, "looks" if spent else "refusals", "")
        situation = Situation(
            step.question.text, turn, len(step.question.images), last=self._looks_left(step) <= 0
        )
        observed = self.dialect.observe(results, situation)
        return self._step(replace(step, messages=(*messages, *observed)))

    def _step(self, step: Step) -> Step:
        """Every turn may be an answer or a call, so none is streamed; all words of it are read."""
        question = step.question
        stop = (*self.dialect.stop, *question.stop)
        return replace(step, answers=False, whole=True, max_new_tokens=self.turn_tokens, stop=stop)

    def _answer(self, step: Step, messages: tuple[Message, ...], stop: str, text: str) -> Answer:
        return Answer(
            text,
            step.question.size,
            step.looks,
            self.name,
            messages=messages,
            refusals=step.refusals,
            stop=stop,
        )

    # -- calls ----------------------------------------------------------------------------------------

    def _results(self, step: Step, reply: Reading, turn: int) -> tuple[Step, list[Result]]:
        """The crop or the refusal of each call of a turn, and the step with the looks that came of them."""
        results = []
        for call in reply.calls:
            try:
                look, view = self._look(step, call, turn)
            except Refused as refused:
                # A reason quotes the model, and its words must not become an image slot. The brackets stay:
                # what is left of "<<image>>" would be one.
                reason = str(refused).replace(IMAGE, "[image]")
                # A call without words is one all the same: it was answered, and counts.
                step = replace(step, refusals=(*step.refusals, Refusal(turn, reason, call.text or "(empty)")))
                results.append(Result(call, refused=reason))
                continue
            results.append(Result(call, len(step.images), view.image.size))
            step = replace(step, looks=(*step.looks, look), images=(*step.images, view))
        return step, results

    def _looks_left(self, step: Step) -> int:
        return min(self.looks - len(step.looks), self.most_images - len(step.images))

    def _look(self, step: Step, call: Call, turn: int) -> tuple[Look, View]:
        """The look of a call and what it shows. Raises Refused."""
        if self._looks_left(step) <= 0:
            raise Refused(NO_LOOK_LEFT)
        if call.fault:
            raise Refused(call.fault)
        if not step.images:
            raise Refused("there is no image")
        number = len(step.images) - 1 if call.source is None else call.source
        if not 0 <= number < len(step.images):
            raise Refused(f"there is no image {number}; the images are 0 to {len(step.images) - 1}")
        if not all(map(math.isfinite, call.numbers)):
            raise Refused("the numbers of the box are not finite")
        image, window = self.place(step, number)
        shown = step.images[number].image.size
        shares = self.dialect.shares(call.numbers, shown)
        left, top, right, bottom = window
        wide, high = right - left, bottom - top
        x0, y0, x1, y1 = shares
        box = Box(left + x0 * wide, top + y0 * high, left + x1 * wide, top + y1 * high, Frame.ORIGINAL)
        size = step.question.images[image].image.size
        cut = window_of(box, window, size, self.dialect.rules)
        if self.crop_from == "seen":
            # The paper's window may reach beyond its source: what was not seen cannot be shown.
            cut = _inside(*_meet(cut, window), size)
        view = self._cut(step, number, image, cut)
        look = Look(
            box.clip(size).to_square(size),
            call.text,
            size,
            call.status,
            cut,
            image=image,
            source=number,
            turn=turn,
            shown=view.image.size,
            crop_hash=view_of(view.image).key,
        )
        return look, view

    def place(self, step: Step, number: int) -> tuple[int, Window]:
        """Which of the question's images an image of the talk shows, and which part of it."""
        own = len(step.question.images)
        if number < own:
            return number, (0, 0, *step.question.images[number].image.size)
        look = step.looks[number - own]
        assert look.crop is not None
        return look.image, look.crop

    def window(self, question: Question, image: int, box: Box) -> Window:
        """What is cut of the question's ``image`` to show ``box`` (SQUARE), whatever its size and shape."""
        size = question.images[image].image.size
        pixels = box.to_original(size).clip(size)
        try:
            return window_of(pixels, (0, 0, *size), size, self.dialect.rules)
        except Refused:
            # A region that nobody called for is shown although a call for it would be refused.
            return crop_window(pixels, size, CropPolicy.TIGHT)

    def cut(self, question: Question, image: int, window: Window) -> View:
        """The pixels of ``window`` as a crop of the question's ``image`` is shown."""
        return self._cut(self.start(question), image, image, window)

    # -- pixels ---------------------------------------------------------------------------------------

    def _shown(self, view: View) -> View:
        """An image of the question as it is shown: smaller where it has more than ``most_pixels``."""
        size = view.image.size
        if self.most_pixels is None or size[0] * size[1] <= self.most_pixels:
            return view
        return self._resized(view)

    def _cut(self, step: Step, number: int, image: int, window: Window) -> View:
        """The pixels of ``window`` (ORIGINAL), in the size in which they are shown."""
        if self.crop_from == "original":
            part = crop(step.question.images[image], window)
        else:
            source = step.images[number]
            _, place = self.place(step, number)
            across = source.image.width / (place[2] - place[0])
            down = source.image.height / (place[3] - place[1])
            x0, y0 = (window[0] - place[0]) * across, (window[1] - place[1]) * down
            x1, y1 = (window[2] - place[0]) * across, (window[3] - place[1]) * down
            part = crop(source, _inside(x0, y0, x1, y1, source.image.size))
        return self._resized(part)

    def _resized(self, view: View) -> View:
        rules = self.dialect.rules
        size = shown_size(view.image.size, rules, self.most_pixels)
        if size == view.image.size:
            return view
        image = view.image.resize(size, RESAMPLING[rules.resample])
        return View(image, f"{view.key}@{size[0]}x{size[1]}")


def _meet(a: Window, b: Window) -> Window:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _inside(x0: float, y0: float, x1: float, y1: float, size: Size) -> Window:
    """Whole pixels of an image of ``size``, one at least."""
    left, top = min(round(x0), size[0] - 1), min(round(y0), size[1] - 1)
    return left, top, min(max(round(x1), left + 1), size[0]), min(max(round(y1), top + 1), size[1])
