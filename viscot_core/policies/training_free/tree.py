"""Search without training: best first over the parts of an image, by the probability of "yes".

Each part is asked one question (`Wording.holds_answer`), and the first token's probability of "yes" is its
worth. The best part that is known is cut into quarters, these are asked, and so on, until the calls are spent
or nothing can be cut; the answer is given after a look at the best part. The idea is that of tree search
over crops (ZoomEye, arXiv 2411.16044); prompts, limits and stopping are viscot's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from viscot_core.boxes.geometry import Box, Frame, Window
from viscot_core.images.view import crop
from viscot_core.policies.base import Answer, Look, Question, Step
from viscot_core.policies.two_turn import TwoTurn

MOST_CALLS = 16
LEAST_SIDE = 112
"""Pixels of the original image: a side is halved where each half has so many."""
OVERLAP = 0.125
"""By this share of its sides a part reaches into its neighbours, so that no object is cut in two by every
part that shows it."""
FIRST_TOKENS = 10
"""So many of the likeliest first tokens are looked through for a "yes"."""


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A part of the image, in pixels of the original; ``worth`` is 0..1, None before it was asked."""

    window: Window
    worth: float | None = None
    split: bool = False


@dataclass(frozen=True, slots=True)
class SearchStep(Step):
    """A step of the search: what is known of the parts. The first one without a worth is being asked."""

    parts: tuple[ImagePart, ...] = ()


@dataclass(frozen=True)
class Tree:
    """At most ``most_calls`` calls about parts, then one for the answer, which ``answers`` asks for.

    An engine that tells no probabilities still searches: a reply that begins with yes is worth 1, another 0.
    """

    answers: TwoTurn
    most_calls: int = MOST_CALLS
    name: str = "tree"

    def start(self, question: Question) -> Step:
        """The first quarter; the answer itself where the image is too small to be cut."""
        size = question.images[0].image.size
        return self._ask(question, (), parts_of((0, 0, *size)))

    def next(self, step: Step, text: str) -> Step | Answer:
        """The next part, or the answer's step, then the answer."""
        if not isinstance(step, SearchStep):
            answer = self.answers.next(step, text)
            return replace(answer, policy=self.name) if isinstance(answer, Answer) else answer
        number = next(n for n, part in enumerate(step.parts) if part.worth is None)
        worth = probability_of_yes(step, text)
        parts = tuple(
            replace(part, worth=worth) if n == number else part for n, part in enumerate(step.parts)
        )
        if any(part.worth is None for part in parts):
            return self._ask(step.question, parts, ())
        return self._grow(step.question, parts)

    def _grow(self, question: Question, parts: tuple[ImagePart, ...]) -> Step:
        """Cut the best part that can be cut, if its quarters can still be asked."""
        for best in sorted((part for part in parts if not part.split), key=_order):
            quarters = parts_of(best.window)
            if quarters and len(parts) + len(quarters) <= self.most_calls:
                known = tuple(replace(part, split=True) if part is best else part for part in parts)
                return self._ask(question, known, quarters)
        return self._ask(question, parts, ())

    def _ask(self, question: Question, known: tuple[ImagePart, ...], new: tuple[ImagePart, ...]) -> Step:
        """The step about the first part that is not asked yet; the answer's, where there is none."""
        parts = (*known, *new)
        part = next((part for part in parts if part.worth is None), None)
        if part is None or len(parts) > self.most_calls:
            return self._answer(question, known)
        return SearchStep(
            question,
            self.answers.wording.holds_answer(question.text),
            (crop(question.images[0], part.window),),
            answers=False,
            max_new_tokens=1,
            top_logprobs=FIRST_TOKENS,
            parts=parts,
        )

    def _answer(self, question: Question, parts: tuple[ImagePart, ...]) -> Step:
        """The look at the best part; at the whole image where no part was asked."""
        size = question.images[0].image.size
        window = min(parts, key=_order).window if parts else (0, 0, *size)
        box = Box(*window, Frame.ORIGINAL).to_square(size)
        words = self.answers.wording.codec.encode(box, size)
        return self.answers.look_again(question, Look(box, words, size, named_by="given"))


def _order(part: ImagePart) -> tuple[float, int]:
    """The best part first; of equals the smaller one, which shows more detail."""
    left, top, right, bottom = part.window
    return -(part.worth or 0.0), (right - left) * (bottom - top)


def parts_of(window: Window) -> tuple[ImagePart, ...]:
    """The quarters of a window, or the halves of a long one, each a little larger; none where it is small."""
    left, top, right, bottom = window
    wide, high = right - left, bottom - top
    # A side is halved where it is long enough, and where no part becomes longer than twice its width.
    across = 2 if wide >= 2 * LEAST_SIDE and 2 * wide > high else 1
    down = 2 if high >= 2 * LEAST_SIDE and 2 * high > wide else 1
    if across * down == 1:
        return ()
    columns, rows = _spans(left, right, across), _spans(top, bottom, down)
    return tuple(ImagePart((x0, y0, x1, y1)) for y0, y1 in rows for x0, x1 in columns)


def _spans(low: int, high: int, count: int) -> list[tuple[int, int]]:
    """The span cut in ``count``, with the overlap."""
    length = (high - low) / count
    more = length * OVERLAP if count > 1 else 0.0
    return [
        (max(low, math.floor(low + n * length - more)), min(high, math.ceil(low + (n + 1) * length + more)))
        for n in range(count)
    ]


def probability_of_yes(step: Step, text: str) -> float:
    """How likely the reply began with yes, against no where either is among the likeliest first tokens.

    Without probabilities the text itself is 1 or 0.
    """
    yes = sum(math.exp(log) for token, log in step.likeliest if _says(token, "yes"))
    no = sum(math.exp(log) for token, log in step.likeliest if _says(token, "no"))
    if yes + no > 0:
        return yes / (yes + no)
    return float(_says(text, "yes"))


def _says(text: str, word: str) -> bool:
    """Whether a token or a reply begins with the word, whatever its case and the space before it."""
    bare = text.strip().lstrip("\u2581\u0120").casefold()
    return bare == word or (bare.startswith(word) and not bare[len(word)].isalpha())
