"""The auxiliary attention loss: two heads of layer 0 look at the colour word, two of layer 1 at the object.

Teacher forcing hides that a very small model ignores the question's colour when it begins a box. This loss
fades to 0 before the end of the run; nothing of it is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from viscot_core.boxes.geometry import crop_window
from viscot_core.data.annotations import split_crop
from viscot_core.data.encode import Sample
from viscot_core.data.scenes import COLORS, Scene, Thing
from viscot_core.families.inputs import IGNORE
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.train.tiny.foundation import view_box

HEADS = 2
"""Heads of layer 0 (colour word) and of layer 1 (patches) that have a target."""
ENOUGH = 0.8
"""Attention mass on the target that is enough: more is not rewarded."""


@dataclass(frozen=True, slots=True)
class Target:
    """Positions for one supervised token: where it is predicted, its colour word, the patches to look at."""

    query: int
    word: int
    patches: NDArray[np.int64]


def targets_of(sample: Sample, scene: Scene, tokens: ChatTokenizer, grid: int) -> list[Target]:
    """Attention targets of every supervised token whose question names a colour of the scene."""
    ids, labels = sample.encoded.ids, sample.encoded.labels
    by_color = {thing.color: thing for thing in scene.things}
    found: list[Target] = []
    word: int | None = None
    thing: Thing | None = None
    image, image_start = -1, 0
    seen: dict[tuple[int, str], NDArray[np.int64]] = {}
    for position, token in enumerate(ids):
        if token == tokens.image_id:
            # The ids of an image begin after another token or, where two images touch, after a whole image.
            if (
                position == 0
                or ids[position - 1] != token
                or (position - image_start) % tokens.image_tokens == 0
            ):
                image, image_start = image + 1, position
            continue
        if labels[position] != IGNORE and word is not None and thing is not None:
            key = (image, thing.color)
            if key not in seen:
                seen[key] = _patches(sample.images[image], thing, scene, grid) + image_start
            # The logits at position - 1 predict this token, so its attention is that of the row before.
            found.append(Target(position - 1, word, seen[key]))
        name = tokens.piece(token).strip()
        if name in COLORS:
            word, thing = position, by_color.get(name)
    return found


def _patches(image: str, thing: Thing, scene: Scene, grid: int) -> NDArray[np.int64]:
    """Patches under the object (whole image) or under its number (crop), at least one."""
    box = split_crop(image)[1]
    if box is None:
        target = view_box(thing.box, (0, 0, *scene.size))
    else:
        target = view_box(thing.text_box, crop_window(box, scene.size))
    low_x, low_y = int(np.clip(target.x0 * grid, 0, grid - 1)), int(np.clip(target.y0 * grid, 0, grid - 1))
    high_x, high_y = (
        int(np.clip(target.x1 * grid, low_x, grid - 1)),
        int(np.clip(target.y1 * grid, low_y, grid - 1)),
    )
    columns, rows = np.arange(low_x, high_x + 1), np.arange(low_y, high_y + 1)
    return (rows[:, None] * grid + columns[None, :]).ravel()


def target_tensors(targets: Sequence[Sequence[Target]], length: int) -> dict[str, torch.Tensor]:
    """``target_row, target_query, target_word int64[n]``, ``target_patches bool[n, length]`` of a batch."""
    flat = [(row, target) for row, of_row in enumerate(targets) for target in of_row]
    patches = np.zeros((len(flat), length), dtype=bool)
    for index, (_, target) in enumerate(flat):
        patches[index, target.patches] = True
    return {
        "target_row": torch.tensor([row for row, _ in flat], dtype=torch.long),
        "target_query": torch.tensor([target.query for _, target in flat], dtype=torch.long),
        "target_word": torch.tensor([target.word for _, target in flat], dtype=torch.long),
        "target_patches": torch.from_numpy(patches),
    }


def attention_loss(attentions: Sequence[torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean of ``-log`` attention mass on the targets, 0 from a mass of `ENOUGH` on; a scalar.

    ``attentions`` are ``[B, heads, T, T]``, one per layer. Without the bound, ever sharper attention to a
    colour is rewarded, and the projector makes colour so large that it hides the rest of a patch.
    """
    row, query = batch["target_row"], batch["target_query"]
    # Index tensors on both sides of a slice: the indexed dimension n comes first in the result.
    to_word = attentions[0][row, :HEADS, query, batch["target_word"]]  # [n, HEADS]
    to_patches = attentions[1][row, :HEADS, query]  # [n, HEADS, T]
    mass = (to_patches * batch["target_patches"][:, None, :]).sum(-1)
    return _lacking(to_word) + _lacking(mass)


def _lacking(mass: torch.Tensor) -> torch.Tensor:
    return -(mass.float() / ENOUGH).clamp(1e-4, 1.0).log().mean()
