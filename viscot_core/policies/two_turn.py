"""Visual CoT's own way: name the region, look at its crop, answer (paper section 3, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from viscot_core.boxes.geometry import Box, CropPolicy, Window, crop_window
from viscot_core.conversation import final_words
from viscot_core.images.view import View, crop
from viscot_core.policies.base import Answer, Look, Question, Step, answer_step
from viscot_core.policies.wording import Wording

MOST_LOOKS = 4
"""So many of the boxes that one reply names are looked at: each crop costs as much as an image."""


@dataclass(frozen=True)
class TwoTurn:
    """Two steps and one look at the question's first image, or several where the reply names several boxes.

    viscot's own format names one (the paper's figures depend on it); of others the first ``MOST_LOOKS`` are
    shown, in the reply's order.

    Without ``shows_crop`` the second step repeats the region in words only (paper Table 6). If the region
    cannot be read, the crop is the whole image, and the look's status says so. ``box_tokens`` limits the
    region's words.
    """

    wording: Wording
    crop_policy: CropPolicy = CropPolicy.PAPER
    shows_crop: bool = True
    box_tokens: int = 128
    name: str = "two_turn"

    def start(self, question: Question) -> Step:
        """Turn 1: where to look."""
        messages = self.wording.detection(question.text)
        return Step(question, messages, question.images[:1], answers=False, max_new_tokens=self.box_tokens)

    def next(self, step: Step, text: str) -> Step | Answer:
        """Turn 2 after turn 1, the answer after turn 2."""
        if step.answers:
            return Answer(final_words(text), step.question.size, step.looks, self.name)
        size = step.question.size
        parsed = self.wording.codec.parse(text, size)
        boxes = (parsed.box, *parsed.others)[:MOST_LOOKS]
        looks = [Look(box, text, size, parsed.status, boxes=parsed.count) for box in boxes]
        return self.look_again(step.question, *looks)

    def look_again(self, question: Question, *looks: Look) -> Step:
        """Turn 2: the question once more, with the crop of each look; the same words named them all."""
        view, words = question.images[0], looks[0].text
        if not self.shows_crop:
            messages = self.wording.without_crop(question.text, words)
            return answer_step(question, messages, (view,), looks)
        shown = tuple(replace(look, crop=self.window(question, 0, look.box)) for look in looks)
        crops = tuple(self.cut(question, 0, look.crop) for look in shown if look.crop is not None)
        messages = self.wording.answer(question.text, words, len(crops))
        return answer_step(question, messages, (view, *crops), shown)

    def window(self, question: Question, image: int, box: Box) -> Window:
        """What is cut of the question's ``image`` to show ``box`` (SQUARE)."""
        return crop_window(box, question.images[image].image.size, self.crop_policy)

    def cut(self, question: Question, image: int, window: Window) -> View:
        """The pixels of ``window``."""
        return crop(question.images[image], window)
