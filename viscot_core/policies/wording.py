"""The words of every prompt: the reference's exact prompts, or viscot's cleaner wording.

``paper`` sends the reference's prompts letter by letter, so that results compare, and one more sentence asks
for a family's own format of a box. ``native`` is the conversation that the model was trained on (question and
request, box, image alone); models of other families are asked for a box as their own documents ask, where
that is certain (``Codec.own_request``), else in the paper's words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import CENTER
from viscot_core.conversation import (
    ANSWER_REQUEST,
    BOX_REQUEST,
    IMAGE,
    Message,
    answer_turns,
    detection_turns,
    direct_turns,
    refcoco_turns,
    text_only_turns,
)
from viscot_core.errors import check_choice

Protocol = Literal["paper", "native"]
PROTOCOLS: tuple[Protocol, ...] = ("paper", "native")
Turns = tuple[Message, ...]

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
"""LLaVA's suffixes (its evaluation scripts, and lmms-eval's tasks), which ask for a form of answer."""


HOLDS_ANSWER = "Can this question be answered from this image alone? Answer yes or no."
"""How a search asks for a part of an image; the first token of the reply is what counts."""

REGION = "the region of the image that helps to answer the question"
"""What a family's own request names, where a question is to be answered."""


def protocol_of(name: str) -> Protocol:
    """The protocol called ``name``. Raises UsageError where there is none."""
    check_choice("--protocol", name, PROTOCOLS)
    return next(protocol for protocol in PROTOCOLS if protocol == name)


def suffix_of(question: str) -> str:
    """The one of LLaVA's suffixes that a question ends in, else nothing."""
    return next((suffix for suffix in (SHORT, LETTER) if question.endswith(suffix)), "")


@dataclass(frozen=True)
class Wording:
    """The messages of every policy, under one protocol and one box format.

    A question may end in one of LLaVA's suffixes: it belongs to the answer and is left out of the request for
    a box.
    """

    codec: Codec
    protocol: Protocol = "paper"

    def detection(self, question: str) -> Turns:
        """Turn 1: where to look."""
        question = _bare(question)
        if self.protocol == "paper":
            return self._with_form(detection_turns(question))
        if self.codec.own_request:
            return (Message("user", f"{IMAGE}\n{question} {self.codec.own_request.format(what=REGION)}"),)
        return self._with_form((Message("user", f"{IMAGE}\n{question} {BOX_REQUEST}"),))

    def answer(self, question: str, box_text: str, crops: int = 1) -> Turns:
        """Turn 2: the answer, with the crops after the first image."""
        *before, last = self._answer(question, box_text)
        return (*before, Message(last.role, last.text.replace(IMAGE, "\n".join([IMAGE] * crops), 1)))

    def _answer(self, question: str, box_text: str) -> Turns:
        if self.protocol == "paper":
            # The first turn is that of the box, without a suffix; the last turn asks for the form of answer.
            return (*answer_turns(_bare(question), box_text)[:-1], answer_turns(question, box_text)[-1])
        in_training = f"{IMAGE}{suffix_of(question)}"
        last = in_training if self.codec.name == "viscot" else f"{IMAGE}\n{ANSWER_REQUEST} {question}"
        return (*self.detection(question), Message("assistant", box_text), Message("user", last))

    def without_crop(self, question: str, box_text: str) -> Turns:
        """Turn 2 without the second image (paper Table 6)."""
        if self.protocol == "paper":
            return text_only_turns(question, box_text)
        return (*self.detection(question), Message("assistant", box_text), Message("user", question))

    def direct(self, question: str, images: int = 1) -> Turns:
        """Question and images only."""
        if self.protocol == "paper":
            (message,) = direct_turns(question)
        else:
            message = Message("user", f"{IMAGE}\n{question}")
        return (Message("user", message.text.replace(IMAGE, "\n".join([IMAGE] * images), 1)),)

    def holds_answer(self, question: str) -> Turns:
        """Whether an image shows what a question asks for: yes or no (a search asks it of each part)."""
        return (Message("user", f"{IMAGE}\n{_bare(question)}\n{HOLDS_ANSWER}"),)

    def refcoco(self, expression: str) -> Turns:
        """A referring expression: its box."""
        if self.protocol == "native" and self.codec.own_request:
            return (Message("user", f"{IMAGE}\n{self.codec.own_request.format(what=expression)}"),)
        return self._with_form(refcoco_turns(expression))

    def _with_form(self, turns: Turns) -> Turns:
        if not self.codec.form:
            return turns
        *before, last = turns
        return (*before, Message(last.role, f"{last.text} {self.codec.form}"))

    def digest(self, prompt: Callable[[Turns], str]) -> str:
        """Sixteen hex digits that change with any word of any prompt; ``prompt`` is an engine's."""
        question = "What number is on the Red card?"
        box = self.codec.encode(CENTER, (640, 480))
        turns = (
            self.detection(question),
            self.answer(question, box),
            self.without_crop(question, box),
            self.direct(question),
            self.refcoco(question),
        )
        text = "\0".join(map(prompt, turns))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bare(question: str) -> str:
    return question.removesuffix(suffix_of(question))
