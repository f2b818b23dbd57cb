"""A region that is given (by an annotation, a person, chance): the model sees its crop and answers."""

from __future__ import annotations

from dataclasses import dataclass

from viscot_core.policies.base import Look, Question, Step
from viscot_core.policies.two_turn import TwoTurn


@dataclass(frozen=True)
class GivenBox(TwoTurn):
    """Turn 2 only, as if the model had named the question's ``box``."""

    name: str = "given_box"

    def start(self, question: Question) -> Step:
        """Turn 2, with the region in the quoted words of the question, or else in the family's format.

        Raises:
            ValueError: the question names no region.
        """
        if question.box is None:
            raise ValueError("a question under the policy given_box needs a box")
        words = question.box_text
        if words is None:
            words = self.wording.codec.encode(question.box, question.size)
        return self.look_again(question, Look(question.box, words, question.size, named_by="given"))
