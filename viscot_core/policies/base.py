"""How to look: the contract of a policy, and what passes between policies and the rollout.

A policy is a pure state machine: ``start`` makes the first step of a question, ``next`` takes the model's
words and makes the next step or the answer. It never sees an engine, a file or a record, and keeps no state
of its own: the whole state of a question is in its ``Step``. Only ``rollout`` calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from viscot_core.boxes.geometry import WHOLE, Box, BoxStatus, Size, Window
from viscot_core.conversation import Message
from viscot_core.images.view import View


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about which images.

    ``box`` (SQUARE frame) is a region that the model does not have to name, ``box_text`` its exact words if
    they are quoted from a file; only policies that take a given region read them. ``max_new_tokens`` and
    ``stop`` limit the answer, not the words of a region.
    """

    text: str
    images: tuple[View, ...]
    box: Box | None = None
    box_text: str | None = None
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """Width and height of the first image, in pixels of the original; (0, 0) without one."""
        return self.images[0].image.size if self.images else (0, 0)


@dataclass(frozen=True, slots=True)
class Look:
    """One region that was named, and the crop of it that was shown.

    ``box`` is in the padded square (0..1) of the image of ``size``: all of it if ``status`` is unparsable.
    ``crop`` is in pixels of the original image, None if no crop was shown. ``status`` is None for a region
    that the model did not name.
    """

    box: Box
    text: str
    size: Size
    status: BoxStatus | None = None
    crop: Window | None = None
    named_by: Literal["model", "given"] = "model"

    @property
    def box_pixels(self) -> Box:
        """The box in pixels of the original image, cut at its border."""
        return self.box.to_original(self.size).clip(self.size)


@dataclass(frozen=True, slots=True)
class Step:
    """A conversation to continue, and the looks so far.

    ``answers`` says that the model's next words are the answer (they may be streamed), not a region.
    """

    question: Question
    messages: tuple[Message, ...]
    images: tuple[View, ...]
    looks: tuple[Look, ...] = ()
    answers: bool = True
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer, and where it looked.

    ``error`` says why there is no text (if ``transient``, another try may help). ``finished`` says that the
    model ended its last turn by itself. ``tokens`` counts the new tokens of all steps; ``seconds`` is this
    question's share of the time of its batches.
    """

    text: str
    size: Size
    looks: tuple[Look, ...] = ()
    policy: str = ""
    error: str | None = None
    transient: bool = False
    finished: bool = True
    tokens: int = 0
    seconds: float = 0.0

    @property
    def look(self) -> Look | None:
        """The last look, the one the answer was given after."""
        return self.looks[-1] if self.looks else None

    @property
    def box(self) -> Box:
        """The last box, 0..1 of the padded square; the whole image where there is none."""
        return self.looks[-1].box if self.looks else WHOLE

    @property
    def crop(self) -> Window:
        """The last crop that was shown, in pixels of the original image; without one, the whole image."""
        shown = [look.crop for look in self.looks if look.crop is not None]
        return shown[-1] if shown else (0, 0, *self.size)

    @property
    def status(self) -> BoxStatus | None:
        """How the last box was read; None where none was asked for."""
        return self.looks[-1].status if self.looks else None

    @property
    def box_text(self) -> str:
        """The words of the last box; empty where there is none."""
        return self.looks[-1].text if self.looks else ""


def answer_step(
    question: Question, messages: tuple[Message, ...], images: tuple[View, ...], looks: tuple[Look, ...] = ()
) -> Step:
    """The step that asks for the answer, with the question's limits."""
    return Step(question, messages, images, looks, max_new_tokens=question.max_new_tokens, stop=question.stop)


class Policy(Protocol):
    """A way of looking. ``name`` goes into records."""

    @property
    def name(self) -> str: ...

    def start(self, question: Question) -> Step:
        """The first step of a question."""
        ...

    def next(self, step: Step, text: str) -> Step | Answer:
        """What follows after the model continued ``step`` with ``text``."""
        ...
