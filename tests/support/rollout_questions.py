"""Policies, regions and questions for a rollout on a scripted engine."""

from __future__ import annotations

from PIL import Image

from viscot_core.boxes.registry import codec
from viscot_core.engines.base import Generation
from viscot_core.images.view import View
from viscot_core.policies.base import Question
from viscot_core.policies.direct import Direct
from viscot_core.policies.given_box import GivenBox
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording

WORDING = Wording(codec("viscot"))
COT, DIRECT, GIVEN = TwoTurn(WORDING), Direct(WORDING), GivenBox(WORDING)
BOX, OTHER_BOX = "[0.500, 0.500, 0.600, 0.600]", "[0.100, 0.100, 0.200, 0.200]"
FAILED = Generation("", 0, False, error="the prompt does not fit")


def question(text: str = "What is it?", key: str = "image", **more: object) -> Question:
    return Question(text, (View(Image.new("RGB", (640, 480)), key),), **more)  # type: ignore[arg-type]
