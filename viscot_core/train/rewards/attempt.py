"""One answered question as rewards read it, made of an answer of the rollout or of a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from viscot_core.boxes.geometry import Box, BoxStatus, Frame, Size
from viscot_core.data.traces.trace import Trace, TraceLook, box_of
from viscot_core.policies.base import Answer, Look

WHOLE_SHARE = 0.95
"""A look that shows this share of its image, or more, is no closer look."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the model did with a question, and what is known of the question.

    ``size`` is that of the question's first image (pixels), ``box`` the annotated region in it (ORIGINAL).
    ``stop`` says why the talk ended (``answer``, ``length``, ``looks``, ``refusals``, ``error``). ``refused``
    are the model's turns (from 1) of calls that were not made; ``late`` counts calls after the answer.
    """

    question: str
    answer: str
    looks: tuple[Look, ...] = ()
    size: Size | None = None
    box: Box | None = None
    reference: str | None = None
    stop: str = "answer"
    refused: tuple[int, ...] = ()
    late: int = 0
    tokens: int | None = None

    @property
    def named(self) -> tuple[Look, ...]:
        """The looks whose regions the model named."""
        return tuple(look for look in self.looks if look.named_by == "model")

    @property
    def last(self) -> tuple[tuple[Look, ...], int]:
        """The looks of the last turn that named a region, and how many it named or tried to name."""
        named = self.named
        if not named:
            return (), 0
        turn = named[-1].turn
        looks = tuple(look for look in named if look.turn == turn)
        # One reply may name more regions than were looked at (`Look.boxes`), one turn may hold several calls.
        said = Counter({look.text: look.boxes for look in looks})
        return looks, max(len(looks), said.total()) + self.refused.count(turn)

    @property
    def closer(self) -> int:
        """How many looks showed the model a part of an image, not all of it."""
        return sum(_is_closer(look) for look in self.named)


def _is_closer(look: Look) -> bool:
    if look.crop is None or look.status is BoxStatus.UNPARSABLE:
        return False
    left, top, right, bottom = look.crop
    width, height = look.size
    return (right - left) * (bottom - top) < WHOLE_SHARE * width * height


def attempt_of_answer(
    answer: Answer, question: str, *, reference: str | None = None, box: Box | None = None
) -> Attempt:
    """The attempt of an answer of any policy; ``box`` is in pixels of the first image."""
    return Attempt(
        question,
        answer.text,
        answer.looks,
        answer.size,
        box,
        reference,
        "error" if answer.error is not None else "length" if answer.truncated else answer.stop or "answer",
        tuple(refusal.turn for refusal in answer.refusals if not refusal.ignored),
        sum(refusal.ignored for refusal in answer.refusals),
        answer.tokens,
    )


def attempt_of_trace(trace: Trace, sizes: Sequence[Size]) -> Attempt:
    """The attempt of a trace whose ``images`` have these sizes."""
    box = Box(*trace.reference_box, frame=Frame.ORIGINAL) if trace.reference_box else None
    return Attempt(
        trace.question,
        trace.answer,
        tuple(_look(look, sizes) for look in trace.looks),
        sizes[0] if sizes else None,
        box,
        trace.reference,
        trace.stop,
        tuple(error.turn for error in trace.errors if error.call),
        sum(not error.call for error in trace.errors),
        trace.tokens,
    )


def _look(look: TraceLook, sizes: Sequence[Size]) -> Look:
    size = sizes[look.image]
    # A trace keeps no words of a look; its number tells two looks of one turn apart.
    words = f"{look.turn} {look.box}"
    return Look(
        box_of(look).to_square(size),
        words,
        size,
        BoxStatus(look.status) if look.status else None,
        look.crop,
        look.named_by,
        image=look.image,
        source=look.source,
        turn=look.turn,
        shown=look.shown,
        crop_hash=look.hash,
    )
