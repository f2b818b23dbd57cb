"""Does looking matter? A policy whose model is shown something else than what it asked to see.

The talk is the inner policy's own, word for word; only the pixels of each observation differ. Everything
after the first replaced look is the model's answer to what it was shown instead.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

from PIL import Image

from viscot_core.boxes.geometry import Box, Size, Window
from viscot_core.conversation import IMAGE, Message
from viscot_core.images.view import View, grey, resized, view_of
from viscot_core.policies.base import Answer, Look, Policy, Question, Step

Replacement = Literal["none", "blank", "noise", "random", "other", "gt", "same"]
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)


@runtime_checkable
class Looking(Policy, Protocol):
    """A policy that shows crops, and can show another region in the same way."""

    def window(self, question: Question, image: int, box: Box) -> Window:
        """What it would cut (pixels of the question's ``image``) to show ``box`` (SQUARE)."""
        ...

    def cut(self, question: Question, image: int, window: Window) -> View:
        """The pixels of ``window`` as it shows them."""
        ...


@dataclass(frozen=True)
class Replaced:
    """``inner`` with every crop replaced: by nothing, grey, noise, a random region of the same size, a region
    of another item (``question.other``), the annotated region (``question.box``), or by itself (``same``).

    All but ``none`` and ``gt`` are shown in the size of the crop that they replace, so that the model reads
    as many tokens. ``random`` and ``noise`` are drawn from ``question.seed`` and the number of the look.
    """

    inner: Looking
    by: Replacement

    @property
    def name(self) -> str:
        return f"{self.inner.name}:{self.by}"

    def start(self, question: Question) -> Step:
        """As the inner policy, which has seen no crop yet."""
        return self.inner.start(question)

    def next(self, step: Step, text: str) -> Step | Answer:
        """As the inner policy, with the crops of new looks replaced."""
        outcome = self.inner.next(step, text)
        if isinstance(outcome, Answer):
            return replace(outcome, policy=self.name)
        before = len(step.looks)
        new = outcome.looks[before:]
        if not new or self.by == "same":
            return outcome
        # Crops come last: of two turns all are new, of a longer talk each new look adds one.
        kept = outcome.images[: len(outcome.images) - len(new)]
        if self.by == "none":
            return replace(
                outcome,
                messages=without_last_slots(outcome.messages, len(new)),
                images=kept,
                looks=(*outcome.looks[:before], *(replace(look, crop=None) for look in new)),
            )
        shown = outcome.images[len(kept) :]
        changed = [
            self._instead(step.question, look, view, before + number)
            for number, (look, view) in enumerate(zip(new, shown, strict=True))
        ]
        return replace(
            outcome,
            images=(*kept, *(view for _, view in changed)),
            looks=(*outcome.looks[:before], *(look for look, _ in changed)),
        )

    def _instead(self, question: Question, look: Look, view: View, number: int) -> tuple[Look, View]:
        """The look and the view of what is shown instead of ``view``."""
        size = view.image.size
        rng = random.Random(f"{question.seed}/{self.by}/{number}")
        assert look.crop is not None
        crop = look.crop
        if self.by == "blank":
            other = grey(size)
        elif self.by == "noise":
            other = view_of(Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1])))
        elif self.by == "other":
            if question.other is None:
                raise ValueError("a question whose crop is replaced by another item's needs that item's")
            other = resized(question.other, lambda _: size)
        elif self.by == "random":
            crop = _elsewhere(crop, question.images[look.image].image.size, rng)
            other = resized(self.inner.cut(question, look.image, crop), lambda _: size)
        else:
            if question.box is None:
                raise ValueError("a question whose crop is replaced by the true region needs its box")
            # The annotated region is one of the first image.
            look = replace(look, image=0)
            crop = self.inner.window(question, 0, question.box)
            other = self.inner.cut(question, 0, crop)
        # A window of the image was shown by these two alone.
        look = replace(look, crop=crop, replaced="" if self.by in ("random", "gt") else self.by)
        if look.crop_hash:
            look = replace(look, shown=other.image.size, crop_hash=view_of(other.image).key)
        return look, other


def _elsewhere(window: Window, size: Size, rng: random.Random) -> Window:
    """A window as large as ``window``, with every place inside an image of ``size`` equally likely."""
    wide, high = window[2] - window[0], window[3] - window[1]
    left, top = rng.randint(0, max(0, size[0] - wide)), rng.randint(0, max(0, size[1] - high))
    return left, top, left + wide, top + high


def without_last_slots(messages: tuple[Message, ...], count: int) -> tuple[Message, ...]:
    """The messages without their last ``count`` image slots; the words about them stay."""
    found = list(messages)
    for place in range(len(found) - 1, -1, -1):
        # An assistant's words may hold the mark, and it is no slot there.
        if found[place].role == "assistant":
            continue
        parts = found[place].text.split(IMAGE)
        gone = min(count, len(parts) - 1)
        if gone:
            keep = len(parts) - gone
            text = IMAGE.join(parts[:keep]) + "".join(part.removeprefix("\n") for part in parts[keep:])
            found[place] = replace(found[place], text=text)
            count -= gone
    return tuple(found)
