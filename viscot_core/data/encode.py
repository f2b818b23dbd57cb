"""A row of a training file as the model reads it: token ids, labels and views; and some of them as a batch.

Keeps the reference's tensors (``golden_train_tensors.json``) except where the reference loses words or
images; ``tests/golden_differences.md`` lists each difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscot_core.boxes.geometry import crop_window
from viscot_core.conversation import IMAGE, Message, with_images_first
from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.errors import DataError, UsageError, nearest
from viscot_core.families.base import IGNORE, Rendered
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.families.llava.template import TEMPLATES, Template, render
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop
from viscot_core.paths import inside

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Ids and labels of one row and the ``image`` entries whose views stand at its image tokens, in order."""

    encoded: Rendered
    images: tuple[str, ...]


def template_named(name: str) -> Template:
    """Raises UsageError, with the nearest names, where there is no such template."""
    if name not in TEMPLATES:
        hint = nearest(name, TEMPLATES) or f" They are {', '.join(TEMPLATES)}."
        raise UsageError(f"There is no template '{name}'.{hint}")
    return TEMPLATES[name]


def training_turns(turns: Sequence[Message], *, plain: bool = False) -> tuple[Message, ...]:
    """As training reads them: the assistant never begins, each ``<image>`` stands at its message's front."""
    start = next((i for i, turn in enumerate(turns) if turn.role == "user"), len(turns))
    kept = turns[start:]
    if plain:
        return tuple(kept)
    return tuple(replace(t, text=with_images_first(t.text)) if t.role == "user" else t for t in kept)


def encode(row: Conversation, tokens: ChatTokenizer, template: Template, *, max_length: int) -> Sample:
    """Render and tokenize one row.

    A row longer than ``max_length`` tokens is cut; an image that would be cut in two goes as a whole, with
    all that follows, so ids and images always agree.

    Raises:
        DataError: as many ``<image>`` as images are not there, or nothing is left to learn.
    """
    rendered = render(training_turns(row.turns, plain=template.plain), template)
    if rendered.n_images != len(row.image):
        raise DataError(
            f"row {row.id}: {rendered.n_images} {IMAGE} marks for {len(row.image)} images; make them agree."
        )
    encoded = _cut(tokens.encode(rendered), tokens, max_length)
    if not encoded.n_supervised:
        raise DataError(
            f"row {row.id}: no supervised token in {max_length} tokens; shorten the row or raise max_length."
        )
    return Sample(encoded, row.image[: encoded.n_images])


def _cut(encoded: Rendered, tokens: ChatTokenizer, max_length: int) -> Rendered:
    if len(encoded.ids) <= max_length:
        return encoded
    end = max_length
    kept = encoded.ids[:end]
    # An image is a run of ``image_tokens`` equal ids, so the remainder is how many ids of a last, incomplete
    # image would stay. Go back until all of them are dropped; whole images before it stay.
    partial = kept.count(tokens.image_id) % tokens.image_tokens
    if partial:
        while partial:
            end -= 1
            partial -= kept[end] == tokens.image_id
        kept = kept[:end]
    images = kept.count(tokens.image_id) // tokens.image_tokens
    return Rendered(kept, encoded.labels[:end], images)


def pad(rows: Sequence[Sequence[int]], value: int, *, multiple: int = 1) -> list[list[int]]:
    """Rows padded at the right to one length, the longest rounded up to ``multiple``."""
    longest = max(map(len, rows))
    length = -(-longest // multiple) * multiple
    return [[*row, *[value] * (length - len(row))] for row in rows]


def load_views(root: Path, names: Sequence[str]) -> list[View]:
    """The views named by ``image`` entries (``path`` or ``path###[x0, y0, x1, y1]``) under ``root``.

    Neighbours that name one image share its decode. Stored pixels are kept: EXIF is not applied, as the
    boxes were drawn without it. Raises ImageError for an image that cannot be read,
    DataError for a name that leads outside of ``root``.
    """
    views: list[View] = []
    for path, group in groupby(names, key=lambda name: split_crop(name)[0]):
        whole = View(open_image(inside(root, path)), path)
        for name in group:
            box = split_crop(name)[1]
            views.append(whole if box is None else crop(whole, crop_window(box, whole.image.size)))
    return views


def collate(
    samples: Sequence[Sample],
    pixels: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    *,
    pad_id: int,
    multiple: int = 1,
) -> Batch:
    """``input_ids, attention_mask, labels`` as ``int64[B, T]`` padded at the right; ``pixel_values``
    ``float32[all images of the batch, 3, H, W]`` in image-token order (if there are any)."""
    import torch

    ids = pad([s.encoded.ids for s in samples], pad_id, multiple=multiple)
    labels = pad([s.encoded.labels for s in samples], IGNORE, multiple=multiple)
    mask = pad([[1] * len(s.encoded.ids) for s in samples], 0, multiple=multiple)
    batch = {
        "input_ids": _tensor(ids),
        "attention_mask": _tensor(mask),
        "labels": _tensor(labels),
    }
    if len(pixels):
        batch["pixel_values"] = torch.from_numpy(np.asarray(pixels))
    return batch


def _tensor(rows: list[list[int]]) -> torch.Tensor:
    """``int64[B, T]``; numpy reads lists several times faster than torch."""
    import torch

    return torch.from_numpy(np.array(rows, np.int64))
