"""Find out which box convention a model uses, from drawn images with known boxes.

Each convention asks for its own form and reads its own form, over the same images: one bright rectangle on
a dark ground, in wide, tall and square images, so that frames and orders give different boxes. The answer is
a table; no run ever changes its convention by itself.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from viscot_core import rollout
from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Box, BoxStatus, Frame, iou
from viscot_core.engines.base import Engine
from viscot_core.errors import EngineError
from viscot_core.images.view import View
from viscot_core.policies.base import Question
from viscot_core.policies.locate import Locate
from viscot_core.policies.wording import Wording

SIZES = ((1200, 500), (500, 1100), (800, 800), (640, 480))
COLORS = {"red": (220, 40, 40), "green": (40, 180, 70), "blue": (50, 90, 220), "yellow": (240, 210, 40)}
FITS = 0.5
"""A convention fits from this mean IoU on."""


@dataclass(frozen=True)
class Fit:
    """How well one convention fits: replies that came, boxes read of them, mean IoU (0 for one not read)."""

    codec: Codec
    replies: int
    read: int
    mean_iou: float
    example: str

    @property
    def fits(self) -> bool:
        return self.mean_iou >= FITS


def images(count: int, seed: int = 0) -> Iterator[tuple[View, str, Box]]:
    """Drawn images: the view, what to look for, and its box in pixels."""
    rng = random.Random(seed)
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        name = list(COLORS)[number % len(COLORS)]
        w, h = rng.randrange(width // 6, width // 3), rng.randrange(height // 6, height // 3)
        x, y = rng.randrange(width - w), rng.randrange(height - h)
        image = Image.new("RGB", (width, height), (35, 35, 40))
        ImageDraw.Draw(image).rectangle((x, y, x + w, y + h), fill=COLORS[name])
        view = View(image, f"calibration-{seed}-{number}")
        yield view, f"the {name} rectangle", Box(x, y, x + w, y + h, Frame.ORIGINAL)


def calibrate(engine: Engine, codecs: Sequence[Codec], *, count: int = 8, seed: int = 0) -> list[Fit]:
    """Every convention over the same images, the best first. Families of points are left out.

    Questions that the model could not answer are not counted.

    Raises:
        EngineError: the model is gone, its server refuses the key, or it answered nothing in one of them.
    """
    drawn = list(images(count, seed))
    fits = [_fit(engine, codec, drawn) for codec in codecs if not codec.points]
    return sorted(fits, key=lambda fit: -fit.mean_iou)


def _fit(engine: Engine, codec: Codec, drawn: Sequence[tuple[View, str, Box]]) -> Fit:
    # Where boxes are pixels of the image as sent, it is sent in a size that the server does not change.
    questions = [Question(what, (_sent(view, codec),)) for view, what, _ in drawn]
    answers = rollout.run(Locate(Wording(codec)), engine, questions)
    replies = [(view, box, one) for (view, _, box), one in zip(drawn, answers, strict=True) if not one.error]
    if not replies:
        raise EngineError(
            f"The model answered none of {len(drawn)} questions ({answers[0].error}); try again later."
        )
    overlaps, read = [], 0
    for view, box, one in replies:
        size = view.image.size
        parsed = codec.parse(one.text, size)
        found = parsed.status is not BoxStatus.UNPARSABLE
        read += found
        overlaps.append(iou(parsed.box, box.to_square(size)) if found else 0.0)
    return Fit(codec, len(replies), read, statistics.mean(overlaps), replies[0][2].text)


def _sent(view: View, codec: Codec) -> View:
    if codec.resize is None or (size := codec.resize(view.image.size)) == view.image.size:
        return view
    return View(view.image.resize(size), f"{view.key}-{size}")
