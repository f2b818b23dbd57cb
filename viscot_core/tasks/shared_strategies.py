"""Strategies that several tasks have: the zoom loop, given regions, and ways to see more without training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from viscot_core.boxes.attention_map import AttentionKind
from viscot_core.boxes.geometry import CENTER, Box, CropPolicy, Frame
from viscot_core.errors import UsageError
from viscot_core.policies.base import Policy
from viscot_core.policies.given_box import GivenBox
from viscot_core.policies.training_free.attention import Attention
from viscot_core.policies.training_free.more_images import More, MoreImages
from viscot_core.policies.training_free.tree import Tree
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording
from viscot_core.policies.zoom_settings import settings_of
from viscot_core.tasks.base import Item, Region, Settings, Strategy, max_new_tokens, wording_of


def _zoom(settings: Settings) -> Policy:
    return settings_of(settings.get("zoom") or {}).policy(max_new_tokens(settings))


def _tree(settings: Settings) -> Policy:
    return Tree(TwoTurn(wording_of(settings)))


def crop_policy(settings: Settings) -> CropPolicy:
    """How a run cuts; as the paper where it does not say."""
    return CropPolicy(settings.get("crop_policy", CropPolicy.PAPER))


def _given_box(settings: Settings) -> Policy:
    return GivenBox(wording_of(settings), crop_policy(settings))


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
        assert item.region is not None, f"{item.name} has no annotated region"
        return item.region
    return Box(x0, y0, x1, y1, Frame.SQUARE)


ZOOM = Strategy("zoom", "the model calls a zoom tool as often as it takes", _zoom, loops=True)

GIVEN = (
    Strategy("gt-box", "the annotated region", _given_box, region=_annotated),
    Strategy("random-box", "a random region, seeded per question", _given_box, region=_random),
    Strategy("center-box", "the middle quarter of the square", _given_box, region=_center),
)
"""Regions that the model does not name (paper Table 6)."""


def attention_settings(layer: int | None, chosen: Sequence[Strategy]) -> dict[str, Any]:
    """What a run's settings say of the layer whose attention is read; nothing where the engine chooses it.

    Raises:
        UsageError: a layer, and no strategy reads one.
    """
    if layer is None:
        return {}
    if not any(strategy.reads_attention for strategy in chosen):
        raise UsageError(
            "--attention-layer is for the strategies attention and attention-gradient; leave it out."
        )
    return {"attention_layer": layer}


def training_free(wording: Callable[[Settings], Wording]) -> tuple[Strategy, ...]:
    """Ways to see more without training, and their controls; ``wording`` is that of the task's ``direct``."""

    def more(what: More, settings: Settings) -> Policy:
        return MoreImages(wording(settings), what)

    def attention(kind: AttentionKind, settings: Settings) -> Policy:
        looks = TwoTurn(wording_of(settings), crop_policy(settings))
        return Attention(looks, wording(settings), kind, settings.get("attention_layer"))

    return (
        Strategy("full", "the image enlarged to the largest size that is read", partial(more, "full")),
        Strategy("tiles", "the image and its four tiles, answer at once", partial(more, "tiles")),
        Strategy("duplicate", "the image twice: the control of more tokens", partial(more, "duplicate")),
        Strategy("blank", "the image and a grey one: the other control", partial(more, "blank")),
        Strategy(
            "attention",
            "a look at what the model attends to more than for a general request",
            partial(attention, "weights"),
            searches=True,
            reads_attention=True,
        ),
        Strategy(
            "attention-gradient",
            "a look at what the model attends to, weighed by the gradient of its answer",
            partial(attention, "gradient"),
            searches=True,
            reads_attention=True,
        ),
        Strategy("tree", "best-first search over parts of the image, then a look", _tree, searches=True),
    )
