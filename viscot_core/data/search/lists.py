"""Scenes with a list to walk: a column of long cards, of which some have a bar.

A question names the colour of a card and asks for the number of the first card with a bar below it. Bars and
numbers are too small in the whole image, and the crop of a card (a square as wide as the card) shows the next
card below it whole and nothing of the one after. So the card that is asked for comes into sight with the
second look, and the third is at that card alone.
"""

from __future__ import annotations

import random
from dataclasses import replace

from viscot_core.boxes.geometry import Window
from viscot_core.data.scenes import COLORS, place_text
from viscot_core.data.search.scenes import SearchScene, SearchThing

WIDTH_SHARES = (0.27, 0.33)
"""Width of a card as a share of the scene's longer side, as that of a card of other scenes."""
HEIGHT, STEP = 0.25, 0.32
"""Height of a card, and from one card to the next, as shares of the width.

A crop reaches half a width from the middle of a card: to behind the next one (0.32 + 0.125 of the width), and
not to the one after it (0.64 - 0.125).
"""
TEXT_SHARE = 0.1
"""Font size as a share of the width: 11 px in the crop of a card at 112 px, under 4 px in the whole image."""
WALK = 2
"""So many cards below the one that a question names stands the one that it asks for."""


def make_list_scene(seed: int) -> SearchScene:
    """A scene of 2304-3584 px with one list of 5 to 7 cards."""
    rng = random.Random(f"list-{seed}")
    side = rng.randrange(2304, 3585, 8)
    short = rng.randrange(side * 11 // 16, side + 1, 8)
    size = rng.choice([(side, short), (short, side)])
    width = round(side * rng.uniform(*WIDTH_SHARES))
    step, height = round(STEP * width), round(HEIGHT * width)
    count = min(rng.randint(5, 7), (size[1] - height) // step)
    edge = width // 10
    left = rng.randint(edge, size[0] - width - edge)
    top = rng.randint(0, size[1] - (count - 1) * step - height)
    colors, texts = rng.sample(list(COLORS), count), rng.sample(range(10, 100), count)
    # The card that is asked for, and another one where it cannot be taken for the first below a named card.
    target = rng.randrange(WALK, count)
    others = [row for row in range(count) if row <= target - WALK or row > target]
    marked = {target, rng.choice(others)}
    cards = []
    for row, (color, text) in enumerate(zip(colors, texts, strict=True)):
        y = top + row * step
        card = SearchThing("card", color, (left, y, left + width, y + height), str(text))
        bar = rng.choice([other for other in COLORS if other != color]) if row in marked else ""
        cards.append(_with_text(rng, replace(card, bar=bar), round(TEXT_SHARE * width)))
    return SearchScene(seed, size, deep=False, cards=tuple(cards))


def _with_text(rng: random.Random, card: SearchThing, font_size: int) -> SearchThing:
    left, top, right, bottom = card.box
    below_bar: Window = (left, top + (bottom - top) // 6, right, bottom)
    return replace(card, text_box=place_text(rng, card.text, font_size, below_bar), font_size=font_size)


def walks_of(scene: SearchScene) -> list[tuple[SearchThing, ...]]:
    """The cards from one that a question can name to the first one with a bar below it; at least one walk."""
    walks = [scene.cards[row : row + WALK + 1] for row in range(len(scene.cards) - WALK)]
    return [walk for walk in walks if [bool(card.bar) for card in walk[1:]] == [False] * (WALK - 1) + [True]]
