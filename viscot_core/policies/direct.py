"""The baseline without a look: question and images, answer at once."""

from __future__ import annotations

from dataclasses import dataclass

from viscot_core.conversation import IMAGE, Message, final_words
from viscot_core.policies.base import Answer, Question, Step, answer_step
from viscot_core.policies.wording import Wording


@dataclass(frozen=True)
class Direct:
    """One step; takes any number of images, also none."""

    wording: Wording
    name: str = "direct"

    def start(self, question: Question) -> Step:
        """The question, with its images in front of it as LLaVA puts them."""
        if len(question.images) == 1:
            messages = self.wording.direct(question.text)
        else:
            messages = (Message("user", f"{IMAGE}\n" * len(question.images) + question.text),)
        return answer_step(question, messages, question.images)

    def next(self, step: Step, text: str) -> Answer:
        """The answer."""
        return Answer(final_words(text), step.question.size, policy=self.name)
