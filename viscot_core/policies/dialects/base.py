"""What a dialect of the zoom tool is: how a model asks for a region, and how the crop is shown to it.

A dialect is data (words, stop texts, frame of the numbers, sizes) and two functions: ``parse`` reads a reply,
``observe`` writes what comes back. Both work on text alone. A call is data: it is matched and parsed as JSON
or numbers, and nothing of it is ever evaluated.

Images of a talk are numbered from 0 in the order in which they were shown: first the question's, then every
crop. This number is a call's ``source``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from viscot_core.boxes.geometry import Box, BoxStatus, Frame, Size, Window
from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import IMAGE, Message
from viscot_core.policies.wording import suffix_of

CoordinateFrame = Literal["square", "unit", "unit-or-pixels", "thousand", "pixels"]
"""What the numbers of a call count, always in the image that they are named in: 0..1 of its padded square,
0..1 of its sides, 0..1 where all four are below 1 and else pixels, 0..1000 of its sides, pixels."""


@dataclass(frozen=True, slots=True)
class Call:
    """A region that the model asks to see.

    ``numbers`` are x0, y0, x1, y1 in the dialect's frame, ``source`` the image they are named in (None: the
    last one shown). ``fault`` says why there is nothing to show; ``id`` is the protocol's name of the call.
    """

    text: str
    numbers: Numbers = (0.0, 0.0, 0.0, 0.0)
    source: int | None = None
    status: BoxStatus = BoxStatus.OK
    fault: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's turn: calls, or an answer. ``said`` is the turn as the conversation keeps it."""

    said: str
    calls: tuple[Call, ...] = ()
    answer: str = ""
    ignored: str = ""
    """Why something that looks like a call was not made, as one behind an answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a call: an image of the talk (``number``, ``size`` as shown), or a refusal."""

    call: Call
    number: int = -1
    size: Size = (0, 0)
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the talk stands when results are observed.

    ``turn`` counts the model's turns from 1. ``images`` are the question's. ``last`` says that no look is
    left, so the model has to answer.
    """

    question: str
    turn: int
    images: int
    last: bool


@dataclass(frozen=True)
class Rules:
    """What a call must keep, and how its crop is cut and shown; pixels are those of the source image.

    Attributes:
        looks: how many crops are shown at most, where the user says nothing else.
        least_side: a smaller box is grown about its middle, or refused.
        grows: small boxes are grown, not refused.
        most_aspect: longer side by shorter side.
        margin: share of the source's sides that is added on each side of the box.
        window: ``box`` cuts the box, ``paper`` the square of Visual CoT about it.
        rounding: how corners become whole pixels: to the nearest, or ``down``, and then at most at the last
            pixel, which leaves out the last column and row.
        step: sides of what is shown are multiples of it (1: any).
        least_pixels, most_pixels: area of what is shown; smaller or larger crops are resized.
        resample: how they are.
        turn_tokens: how many tokens a turn needs at most.
    """

    looks: int = 6
    least_side: int = 1
    grows: bool = False
    most_aspect: float = 200.0
    margin: float = 0.0
    window: Literal["box", "paper"] = "box"
    rounding: Literal["nearest", "down"] = "nearest"
    step: int = 1
    least_pixels: int = 1
    most_pixels: int | None = None
    resample: Literal["bicubic", "lanczos"] = "bicubic"
    turn_tokens: int = 2048


@dataclass(frozen=True)
class Dialect:
    """One way to call the zoom tool, with the words of its authors.

    Attributes:
        frame: what the numbers of a call count.
        parse: reads a turn; it is given the number of the question's images.
        observe: what the user says after the calls of a turn.
        call: writes a call of a region (numbers of the frame) in the image ``source``, and answer writes an
            answer, as a model says them in training data; both are given the number of the question's images.
        suffix: what stands behind the question, whose images stand before it.
        system: the system prompt, "" where there is none.
        tools: the tools as a server of OpenAI's protocol takes them (JSON), "" where the prompt has them.
        stop: texts that end a turn.
        sources: in which image of the talk a call can name a region.
        bare: the first message has no suffix of LLaVA's that asks for a form of answer.
        keeps_thoughts: thoughts stay in the conversation, as the model was trained.
        origin: where these words and rules were read.
    """

    name: str
    frame: CoordinateFrame
    parse: Callable[[str, int], Reading]
    observe: Callable[[Sequence[Result], Situation], tuple[Message, ...]]
    call: Callable[[Numbers, int, int], str]
    origin: str
    answer: Callable[[str], str] = str
    suffix: str = ""
    system: str = ""
    tools: str = ""
    stop: tuple[str, ...] = ()
    sources: Literal["any", "first", "last"] = "any"
    rules: Rules = field(default_factory=Rules)
    bare: bool = False
    keeps_thoughts: bool = True

    def ask(self, question: str, images: int) -> tuple[Message, ...]:
        """The first messages: the tool, the images, the question."""
        if self.bare:
            question = question.removesuffix(suffix_of(question))
        system = (Message("system", self.system),) if self.system else ()
        return (*system, Message("user", f"{IMAGE}\n" * images + question + self.suffix))

    def shares(self, numbers: Numbers, size: Size) -> Numbers:
        """The numbers of a call as shares of the sides of the image they are named in, of ``size``."""
        x0, y0, x1, y1 = numbers
        width, height = size
        frame = self.frame
        if frame == "unit-or-pixels":
            frame = "unit" if all(number < 1 for number in numbers) else "pixels"
        if frame == "square":
            x0, y0, x1, y1 = Box(*numbers, frame=Frame.SQUARE).to_original(size).coords
            frame = "pixels"
        if frame == "unit":
            return numbers
        across, down = (1000, 1000) if frame == "thousand" else (width, height)
        return (x0 / across, y0 / down, x1 / across, y1 / down)

    def numbers(self, shares: Numbers, size: Size) -> Numbers:
        """Back: shares of the sides of an image of ``size`` in this dialect's frame."""
        x0, y0, x1, y1 = shares
        width, height = size
        if self.frame == "square":
            box = Box(x0 * width, y0 * height, x1 * width, y1 * height, Frame.ORIGINAL)
            return box.to_square(size).coords
        if self.frame in ("unit", "unit-or-pixels"):
            return shares
        across, down = (1000, 1000) if self.frame == "thousand" else (width, height)
        return (x0 * across, y0 * down, x1 * across, y1 * down)

    def write_call(self, box: Box, window: Window, shown: Size, source: int, images: int = 1) -> str:
        """What a model says to see ``box`` (ORIGINAL pixels) in the image ``source`` of the talk.

        ``window`` is the part of the original that this image shows, ``shown`` its size as shown; ``images``
        is the number of the question's.
        """
        left, top, right, bottom = window
        width, height = right - left, bottom - top
        x0, y0, x1, y1 = box.coords
        shares = ((x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height)
        return self.call(self.numbers(shares, shown), source, images)
