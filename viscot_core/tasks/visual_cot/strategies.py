"""The conditions of the benchmark: where the box comes from, and what the model sees when it answers."""

from __future__ import annotations

import random

from viscot_core.boxes.geometry import CENTER, Box, CropPolicy, Frame
from viscot_core.policies.base import Policy
from viscot_core.policies.direct import Direct
from viscot_core.policies.given_box import GivenBox
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.tasks.base import Item, Region, Settings, Strategy, max_new_tokens, wording_of
from viscot_core.tasks.shared_strategies import TRAINING_FREE, ZOOM


def _crop_policy(settings: Settings) -> CropPolicy:
    return CropPolicy(settings.get("crop_policy", CropPolicy.PAPER))


def _two_turn(settings: Settings) -> Policy:
    return TwoTurn(wording_of(settings), _crop_policy(settings), box_tokens=max_new_tokens(settings))


def _no_image(settings: Settings) -> Policy:
    return TwoTurn(wording_of(settings), shows_crop=False, box_tokens=max_new_tokens(settings))


def _given_box(settings: Settings) -> Policy:
    return GivenBox(wording_of(settings), _crop_policy(settings))


def _direct(settings: Settings) -> Policy:
    return Direct(wording_of(settings))


def random_box(rng: random.Random) -> Box:
    """A box of the padded square: centre uniform, half-sizes uniform up to 0.5, cut at the border.

    The draws come in the reference's order (x, y, height, width), so that its seeds give its boxes.
    """
    x, y, height, width = (rng.random() for _ in range(4))
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2).clip((1, 1))


def _random(item: Item, settings: Settings) -> Region:
    """Depends on the seed and the question only, not on the order of the questions."""
    # ``Random`` of a text hashes it itself (SHA-512), the same in every process; ``hash()`` of a text
    # differs.
    seed = settings.get("seed", 0)
    return random_box(random.Random(f"{seed}/{item.dataset}/{item.question_id}")), None


def _center(item: Item, settings: Settings) -> Region:
    return CENTER, None


def _annotated(item: Item, settings: Settings) -> Region:
    """The annotated box. The reference shows the words of the file; another family gets its own words."""
    quoted = item.box_text if wording_of(settings).codec.name == "viscot" else None
    return annotated_box(item), quoted


def annotated_box(item: Item) -> Box:
    """The item's region in the padded square: from the file's own words, else from the pixels.

    The words are rounded to three decimals, and the reference crops what they say.
    """
    numbers = (item.box_text or "").strip().removeprefix("[").removesuffix("]").split(",")
    try:
        x0, y0, x1, y1 = (float(number) for number in numbers)
    except ValueError:
        assert item.box_square is not None, f"{item.name} has no annotated box"
        return item.box_square
    return Box(x0, y0, x1, y1, Frame.SQUARE)


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("cot", "the model names the region, sees its crop, answers", _two_turn, asks_for_box=True),
        Strategy("direct", "question and image, answer at once", _direct),
        Strategy("gt-box", "the annotated region", _given_box, region=_annotated),
        Strategy("random-box", "a random region, seeded per question", _given_box, region=_random),
        Strategy("center-box", "the middle quarter of the square", _given_box, region=_center),
        Strategy(
            "no-image", "the model names the region, its crop is not shown", _no_image, asks_for_box=True
        ),
        ZOOM,
        *TRAINING_FREE,
    )
}
"""Paper Table 6, and the loop."""
