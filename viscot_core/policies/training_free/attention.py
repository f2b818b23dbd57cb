"""A look without training at what the model attends to: its own attention map says where.

After "MLLMs Know Where to Look" (Zhang et al., ICLR 2025, arXiv 2502.17422), which found that models attend
to the right place even where their answer is wrong. ``weights`` is its relative attention: the attention of
the answer's first token for the question, divided by that for a general request, since some parts of an image
are attended to whatever is asked. ``gradient`` weighs the attention by its positive gradient and needs no
second request. The window that stands out most is cut and shown with the image; which window that is, is
told in `boxes.attention_map`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from viscot_core.boxes.attention_map import AttentionKind, AttentionMap, AttentionOf
from viscot_core.policies.base import Answer, Look, Question, Step
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording, suffix_of

GENERAL = "Write a general description of the image."
"""The published code's general request (its run.py)."""
NO_MAPS = (
    "The strategy attention reads a model's attention to its image, which only --engine transformers can "
    "tell, and only of models whose image tokens have a known place (LLaVA, Qwen-VL, GLM-V, InternVL, "
    "Idefics3, SmolVLM, Gemma 3); leave it out here."
)


@dataclass(frozen=True, slots=True)
class MapStep(Step):
    """A step that asks what the model attends to; ``found`` is the question's map, once it is known."""

    found: AttentionMap | None = None


@dataclass(frozen=True)
class Attention:
    """One or two calls for the map, then one for the answer, which ``answers`` asks for.

    ``asks`` words the question as where no look is taken. ``layer`` is that of the text model, from 0; None:
    the engine's choice. It needs an engine with ``Traits.attention``.
    """

    answers: TwoTurn
    asks: Wording
    kind: AttentionKind = "weights"
    layer: int | None = None

    @property
    def name(self) -> str:
        return "attention" if self.kind == "weights" else "attention-gradient"

    def start(self, question: Question) -> Step:
        """What the model attends to for the question."""
        return self._ask(question, question.text)

    def next(self, step: Step, text: str) -> Step | Answer:
        """What it attends to for a general request, then the answer's step, then the answer."""
        if not isinstance(step, MapStep):
            answer = self.answers.next(step, text)
            return replace(answer, policy=self.name) if isinstance(answer, Answer) else answer
        if step.attended is None:
            raise ValueError("the policy attention needs an engine that tells what a model attends to")
        if self.kind == "gradient":
            return self._answer(step.question, step.attended)
        if step.found is None:
            # The same form of answer: the form is not what the two differ in.
            general = GENERAL + suffix_of(step.question.text)
            return replace(self._ask(step.question, general), found=step.attended)
        return self._answer(step.question, step.found.relative_to(step.attended))

    def _ask(self, question: Question, text: str) -> MapStep:
        return MapStep(
            question,
            self.asks.direct(text),
            question.images[:1],
            answers=False,
            max_new_tokens=1,
            attention=AttentionOf(self.kind, self.layer),
        )

    def _answer(self, question: Question, attended: AttentionMap) -> Step:
        """The look at the window that stands out."""
        size = question.images[0].image.size
        box = attended.best_box(size).to_square(size)
        words = self.answers.wording.codec.encode(box, size)
        return self.answers.look_again(question, Look(box, words, size, named_by="given"))
