"""Ask a model about images from Python: ``viscot_core.load()`` makes a ``VisualCoT``.

This module opens images, checks questions and chooses the policy; ``rollout.run`` does the asking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from viscot_core.boxes.geometry import Box, CropPolicy
from viscot_core.boxes.registry import codec
from viscot_core.conversation import IMAGE
from viscot_core.engines.base import Engine
from viscot_core.errors import EngineError, UsageError
from viscot_core.images.reading import ImageSource, open_image
from viscot_core.images.view import view_of
from viscot_core.policies.base import Answer, Policy, Question
from viscot_core.policies.direct import Direct
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording
from viscot_core.rollout import OnLook, OnText, run

Strategy = Literal["cot", "direct"]
"""The public names of the policies ``two_turn`` and ``direct``."""


class VisualCoT:
    """An engine that is asked about images in two turns (``cot``), or in one (``direct``).

    ``wording`` says how the model is spoken to and how it writes boxes; without it, as viscot's models do.
    """

    def __init__(
        self, engine: Engine, crop_policy: CropPolicy = CropPolicy.PAPER, *, wording: Wording | None = None
    ) -> None:
        self.engine = engine
        self.crop_policy = crop_policy
        self.wording = wording or Wording(codec("viscot"))

    def ask(
        self,
        image: ImageSource,
        question: str,
        *,
        strategy: Strategy = "cot",
        max_new_tokens: int = 128,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """One question about one image; the image is given as ``open_image`` takes it, and
        read as a viewer shows it: its EXIF orientation applied, transparency on white.

        ``max_new_tokens`` bounds the words of the box and the answer, each. ``on_text`` is called with the
        answer so far whenever it gets longer, if the engine can do so.

        Raises:
            ImageError: the image cannot be read.
            UsageError: the question is empty or contains ``<image>``.
            EngineError: the model could not answer.
        """
        (answer,) = self.ask_many(
            [(image, question)],
            strategy=strategy,
            max_new_tokens=max_new_tokens,
            on_text=None if on_text is None else lambda _, text: on_text(text),
        )
        if answer.error is not None:
            raise EngineError(f"The model could not answer: {answer.error}.")
        return answer

    def ask_many(
        self,
        questions: Sequence[tuple[ImageSource, str]],
        *,
        strategy: Strategy = "cot",
        max_new_tokens: int = 128,
        on_text: OnText | None = None,
        on_look: OnLook | None = None,
    ) -> list[Answer]:
        """One answer per pair of image and question, in order, asked together.

        All images and questions are checked first, and a wrong one raises as in ``ask``. A question that the
        engine cannot answer has ``error`` set; the others have their answers.
        """
        return run(
            policy_for(strategy, self.wording, self.crop_policy, box_tokens=max_new_tokens),
            self.engine,
            [prepare_question(image, text, max_new_tokens=max_new_tokens) for image, text in questions],
            on_text=on_text,
            on_look=on_look,
        )


def policy_for(
    strategy: str,
    wording: Wording,
    crop_policy: CropPolicy = CropPolicy.PAPER,
    *,
    box_tokens: int = 128,
) -> Policy:
    """The policy behind a strategy's public name.

    Raises:
        UsageError: there is no such strategy.
    """
    if strategy == "cot":
        return TwoTurn(wording, crop_policy, box_tokens=box_tokens)
    if strategy == "direct":
        return Direct(wording)
    raise UsageError(f"There is no strategy '{strategy}'; choose cot or direct.")


def prepare_question(
    image: ImageSource,
    text: str,
    *,
    box: Box | None = None,
    max_new_tokens: int = 128,
    stop: tuple[str, ...] = (),
) -> Question:
    """A checked question about an opened image; raises as ``VisualCoT.ask`` does."""
    text = check_question(text)
    view = view_of(open_image(image, as_seen=True))
    return Question(text, (view,), box, max_new_tokens=max_new_tokens, stop=stop)


def check_question(text: str) -> str:
    """The question without surrounding white space.

    Raises:
        UsageError: it is empty, or contains ``<image>``, which marks an image in a prompt.
    """
    text = text.strip()
    if not text:
        raise UsageError("The question is empty; write what you want to know about the image.")
    if IMAGE in text:
        raise UsageError(f"The question contains {IMAGE}, which marks an image in a prompt; remove it.")
    return text
