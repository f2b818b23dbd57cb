"""Where is it? A sentence describes something, and the answer is its box (RefCOCO; paper Table 9)."""

from __future__ import annotations

from dataclasses import dataclass

from viscot_core.policies.base import Answer, Look, Question, Step, answer_step
from viscot_core.policies.wording import Wording


@dataclass(frozen=True)
class Locate:
    """One step; no crop is shown."""

    wording: Wording
    name: str = "locate"

    def start(self, question: Question) -> Step:
        """The referring expression."""
        messages = self.wording.refcoco(question.text)
        return answer_step(question, messages, question.images[:1])

    def next(self, step: Step, text: str) -> Answer:
        """The box in words, and as a look; each of several boxes is one."""
        size = step.question.size
        parsed = self.wording.codec.parse(text, size)
        boxes = (parsed.box, *parsed.others)
        looks = tuple(Look(box, text, size, parsed.status, boxes=parsed.count) for box in boxes)
        return Answer(text, size, looks, self.name)
