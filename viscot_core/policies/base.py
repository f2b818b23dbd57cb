"""How to look: the contract of a policy, and what passes between policies and the rollout.

A policy is a pure state machine: ``start`` makes the first step of a question, ``next`` takes the model's
words and makes the next step or the answer. It never sees an engine, a file or a record, and keeps no state
of its own: the whole state of a question is in its ``Step``. Only ``rollout`` calls it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL import Image

from viscot_core.boxes.geometry import WHOLE, Box, BoxStatus, Size, Window
from viscot_core.conversation import Message
from viscot_core.errors import ImageError, UsageError
from viscot_core.images.reading import ImageSource, open_image
from viscot_core.images.view import View
from viscot_core.policies.showing import detections, draw_looks, plain_data

if TYPE_CHECKING:
    import supervision

    from viscot_core.boxes.attention_map import AttentionMap, AttentionOf
    from viscot_core.engines.base import Sampling


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about which images.

    ``box`` (SQUARE frame) is a region that the model does not have to name, ``box_text`` its exact words if
    they are quoted from a file; only policies that take a given region read them. ``max_new_tokens`` and
    ``stop`` limit the answer, not the words of a region. What chance decides is drawn from ``seed``, and
    ``other`` is a region of another question; only a policy that replaces crops reads them.

    ``draw`` says which random numbers it draws with, where texts depend on chance (``Request.draw``); None:
    the rollout gives each question its own.
    """

    text: str
    images: tuple[View, ...]
    box: Box | None = None
    box_text: str | None = None
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    seed: str = ""
    other: View | None = None
    draw: int | None = None

    @property
    def size(self) -> Size:
        """Width and height of the first image, in pixels of the original; (0, 0) without one."""
        return self.images[0].image.size if self.images else (0, 0)


@dataclass(frozen=True, slots=True)
class Look:
    """One region that was named, and the crop of it that was shown.

    ``box`` is in the padded square (0..1) of the image of ``size``: all of it if ``status`` is unparsable.
    ``crop`` is in pixels of the original image, None if no crop was shown. ``status`` is None for a region
    that the model did not name. ``boxes`` is how many different ones its words name; ``box`` is the first.

    ``image`` is the number of the question's image, ``source`` that of the talk's image in which the region
    was named (0: the first; crops count on from the question's images), ``turn`` the model's turn, from 1.
    ``shown`` and ``crop_hash`` are the size and the sha256 of the pixels that the model was shown; policies
    with one look leave them out. ``replaced`` names what was shown instead of the crop, which is then the
    region that the model had asked to see.
    """

    box: Box
    text: str
    size: Size
    status: BoxStatus | None = None
    crop: Window | None = None
    named_by: Literal["model", "given"] = "model"
    boxes: int = 1
    image: int = 0
    source: int = 0
    turn: int = 1
    shown: Size | None = None
    crop_hash: str = ""
    replaced: str = ""

    @property
    def box_pixels(self) -> Box:
        """The box in pixels of the original image, cut at its border."""
        return self.box.to_original(self.size).clip(self.size)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call of the model's ``turn`` (from 1) that was not made, and why; ``call`` are its words.

    ``ignored`` ones were not answered: the model had answered in the same turn.
    """

    turn: int
    reason: str
    call: str = ""

    @property
    def ignored(self) -> bool:
        return not self.call


@dataclass(frozen=True, slots=True)
class Step:
    """A conversation to continue, and the looks so far.

    ``answers`` says that the model's next words are the answer (they may be streamed), not a region.
    ``whole``: the policy reads the model's thoughts too, which stay in the text. ``tools`` are those that a
    server offers to the model (JSON, as OpenAI's protocol has them). ``sampling`` is how the tokens are
    chosen where the policy wants them otherwise than the engine.

    ``top_logprobs`` asks how likely the first tokens of the reply were. The step that ``next`` gets back then
    has them as ``likeliest`` (text and natural logarithm, the likeliest first), if the engine tells them.
    ``attention`` asks what the model attends to, which comes back as ``attended``; only engines with
    ``Traits.attention`` are asked. Likewise ``ids``, the tokens of the reply with the one that ended it: of a
    text there may be others.
    """

    question: Question
    messages: tuple[Message, ...]
    images: tuple[View, ...]
    looks: tuple[Look, ...] = ()
    answers: bool = True
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    whole: bool = False
    tools: str = ""
    refusals: tuple[Refusal, ...] = ()
    sampling: Sampling | None = None
    top_logprobs: int = 0
    likeliest: tuple[tuple[str, float], ...] = ()
    attention: AttentionOf | None = None
    attended: AttentionMap | None = None
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer, and where it looked.

    ``error`` says why there is no text (if ``transient``, another try may help). ``finished`` says that the
    model ended its last turn by itself, ``truncated`` that the token limit cut one of its turns. ``thoughts``
    are those of a reasoning model, one for each turn, and empty where it had none. ``tokens`` counts the new
    tokens of all steps; ``seconds`` is this question's share of the time of its batches.

    Of a policy that may look often: ``messages`` are the whole talk, the answer included, ``refusals`` the
    calls that were not made, and ``stop`` says why it ended (``answer``, ``looks``, ``refusals``); it is ""
    elsewhere. ``costs`` are the new tokens and the seconds of each turn, ``probabilities`` how sure the model
    was of its words there (`rollout.mean_probability`), where the engine tells; likewise ``seen``, the size
    in which the model saw the first image.

    ``question``, ``source`` and ``page`` say what was asked about which image (as it was given, opened again
    where it is needed); ``ask`` sets them, a policy does not.
    """

    text: str
    size: Size
    looks: tuple[Look, ...] = ()
    policy: str = ""
    error: str | None = None
    transient: bool = False
    finished: bool = True
    truncated: bool = False
    thoughts: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    messages: tuple[Message, ...] = field(default=(), repr=False)
    refusals: tuple[Refusal, ...] = ()
    stop: str = ""
    costs: tuple[tuple[int, float], ...] = field(default=(), repr=False, compare=False)
    probabilities: tuple[float | None, ...] = field(default=(), repr=False, compare=False)
    seen: Size | None = field(default=None, repr=False, compare=False)
    question: str = ""
    source: ImageSource | None = field(default=None, repr=False, compare=False)
    page: int | None = None

    @property
    def look(self) -> Look | None:
        """The look the answer was given after: of several that the same words named, the first."""
        if not self.looks:
            return None
        last = self.looks[-1]
        return next(look for look in self.looks if (look.turn, look.text) == (last.turn, last.text))

    @property
    def box(self) -> Box:
        """The last box, 0..1 of the padded square; the whole image where there is none."""
        return self.look.box if self.look else WHOLE

    @property
    def crop(self) -> Window:
        """The crop of ``look`` in pixels of the original image; without one, the last shown, or all of it."""
        if (look := self.look) and look.crop is not None:
            return look.crop
        shown = [look.crop for look in self.looks if look.crop is not None]
        return shown[-1] if shown else (0, 0, *self.size)

    @property
    def status(self) -> BoxStatus | None:
        """How the last box was read; None where none was asked for."""
        return self.look.status if self.look else None

    @property
    def box_text(self) -> str:
        """The words of the last box; empty where there is none."""
        return self.look.text if self.look else ""

    @property
    def box_pixels(self) -> Box | None:
        """The last box in pixels of the image, cut at its border; None where there is none."""
        return self.look.box_pixels if self.look else None

    @property
    def answer_probability(self) -> float | None:
        """How sure the model was of the answer's words, 0..1; None where the engine does not tell."""
        return self.probabilities[-1] if self.probabilities else None

    @property
    def box_probability(self) -> float | None:
        """The same for the words that named the last box; None where the model named none."""
        return self.sure_of(self.look) if self.look else None

    def sure_of(self, look: Look) -> float | None:
        """How sure the model was of the words that named a box; None where it named none."""
        if look.named_by == "given" or look.turn > len(self.probabilities):
            return None
        return self.probabilities[look.turn - 1]

    @property
    def image(self) -> Image.Image:
        """The image that was asked about, as the model saw it: RGB, upright.

        Raises:
            UsageError: the answer does not come from ``ask``, so it has none.
            ImageError: the file is gone, or another one now.
        """
        if self.source is None:
            raise UsageError("This answer has no image; only answers of VisualCoT.ask and ask_many have one.")
        kept = isinstance(self.source, Image.Image)  # the pixels of that page
        image = open_image(self.source, as_seen=True, page=None if kept else self.page)
        if image.size != self.size:
            raise ImageError(f"The image was {self.size} and is {image.size} now; ask again.")
        return image

    @property
    def crop_image(self) -> Image.Image:
        """The part of the image that the model looked at last; raises as ``image``."""
        return self.image.crop(self.crop)

    def draw(self, *, height: int = 420) -> Image.Image:
        """The image with box and crop, the crop beside it (``height`` px), question and answer below.

        A box is drawn only where one could be read. Raises as ``image``.
        """
        return draw_looks(self, height)

    def _repr_png_(self) -> bytes | None:
        """The drawing, as notebooks show it; None where there is no image to draw on."""
        if self.source is None or self.error is not None:
            return None
        file = io.BytesIO()
        self.draw().save(file, "PNG")
        return file.getvalue()

    def to_detections(self) -> supervision.Detections:
        """The boxes of all looks at the (first) image as ``supervision.Detections``; unparsable ones are
        left out.

        ``class_name`` is ``look 1``, ``look 2``...; ``confidence`` is how sure the model was of the words of
        each box, where the engine tells.

        Raises:
            UsageError: ``supervision`` is not installed (``pip install 'viscot[supervision]'``).
        """
        return detections(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the last box in both frames (0..1 of the padded square, pixels), status, crop."""
        return plain_data(self)

    @property
    def probability_facts(self) -> dict[str, float]:
        """``box_probability`` and ``answer_probability`` where they are known, to four places."""
        known = {"box_probability": self.box_probability, "answer_probability": self.answer_probability}
        return {name: round(value, 4) for name, value in known.items() if value is not None}


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
