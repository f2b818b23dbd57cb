"""The six conditions of the benchmark: where the box comes from, and what the model sees when it answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from viscot_core.boxes.geometry import CENTER, Box, Frame
from viscot_core.errors import UsageError, nearest
from viscot_core.tasks.items import Item

REFCOCO_STRATEGY = "refcoco"
"""The name referring-expression predictions carry; it is no strategy of the CoT benchmark."""


BoxFrom = Literal["model", "given", "nobody"]
"""Who names the region."""


@dataclass(frozen=True)
class Strategy:
    """One condition (paper Table 6). ``place`` gives the box of an item where ``box_from`` is "given"."""

    name: str
    summary: str
    box_from: BoxFrom
    shows_crop: bool = True
    place: Callable[[Item, int], Box] | None = None

    def given_box(self, item: Item, seed: int) -> Box | None:
        """The box where it does not come from the model; ``seed`` matters to random ones."""
        return self.place(item, seed) if self.place else None


def random_box(rng: random.Random) -> Box:
    """A box of the padded square: centre uniform, half-sizes uniform up to 0.5, cut at the border.

    The draws come in the reference's order (x, y, height, width), so that its seeds give its boxes.
    """
    x, y, height, width = (rng.random() for _ in range(4))
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2).clip((1, 1))


def _random_of(item: Item, seed: int) -> Box:
    return random_box(random.Random(f"{seed}/{item.dataset}/{item.question_id}"))


def annotated_box(item: Item) -> Box:
    """The item's region in the padded square: as the file's own words round it, else from the pixels."""
    numbers = (item.box_text or "").strip().removeprefix("[").removesuffix("]").split(",")
    try:
        x0, y0, x1, y1 = (float(number) for number in numbers)
    except ValueError:
        return item.box.to_square(item.size)
    return Box(x0, y0, x1, y1, Frame.SQUARE)


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("cot", "the model names the region, sees its crop, answers", "model"),
        Strategy("direct", "question and image, answer at once", "nobody", shows_crop=False),
        Strategy("gt-box", "the annotated region", "given", place=lambda item, _: annotated_box(item)),
        Strategy("random-box", "a random region, seeded per question", "given", place=_random_of),
        Strategy("center-box", "the middle quarter of the square", "given", place=lambda *_: CENTER),
        Strategy("no-image", "the model names the region, its crop is not shown", "model", shows_crop=False),
    )
}


def strategies(names: Sequence[str]) -> tuple[Strategy, ...]:
    """The named conditions, each once, in the order given.

    Raises:
        UsageError: an unknown name; the nearest ones are suggested.
    """
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        raise UsageError(
            f"There is no strategy '{unknown[0]}'; there are {', '.join(STRATEGIES)}."
            f"{nearest(unknown[0], STRATEGIES)}"
        )
    if not names:
        raise UsageError(f"No strategy was named; choose from {', '.join(STRATEGIES)}.")
    return tuple(STRATEGIES[name] for name in dict.fromkeys(names))
