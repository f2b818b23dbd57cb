"""A row of a training file as the model reads it: token ids, labels and views; and some of them as a batch.

Keeps the reference's tensors (``golden_train_tensors.json``) except where the reference loses words or
images; ``tests/golden_differences.md`` lists each difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import BoxStatus, Size, crop_window, parse_box
from viscot_core.conversation import IMAGE, Message
from viscot_core.data.annotations import Conversation, exact_window, split_crop
from viscot_core.data.faults import asks_for_box, says_box
from viscot_core.data.mixture import Mixture, Progress
from viscot_core.errors import DataError
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.families.training import TrainingProcessor
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop
from viscot_core.paths import inside

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]
VISCOT = "viscot"
"""The convention of rows on disk."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Ids and labels of one row and the ``image`` entries whose views stand at its image tokens, in order."""

    encoded: Rendered
    images: tuple[str, ...]


def training_turns(turns: Sequence[Message]) -> tuple[Message, ...]:
    """As training reads them: the assistant never begins, each ``<image>`` stands at its message's front."""
    start = next((i for i, turn in enumerate(turns) if turn.role != "assistant"), len(turns))
    return tuple(
        replace(turn, text=with_images_first(turn.text)) if turn.role == "user" else turn
        for turn in turns[start:]
    )


def with_images_first(text: str) -> str:
    """A user's message as training reads it: every ``<image>`` moved to the front, each on its own line."""
    count = text.count(IMAGE)
    if not count:
        return text
    words = text.replace(IMAGE, "").strip()
    return (f"{IMAGE}\n" * count + words).strip()


def encode(
    row: Conversation, processor: TrainingProcessor, *, max_length: int, sizes: Sequence[Size] | None = None
) -> Sample:
    """Render and tokenize one row, at most ``max_length`` tokens of it; ids and images always agree.

    ``sizes`` of the row's views in pixels; None where they make no difference (``processor.image_side``).

    Raises:
        DataError: as many ``<image>`` as images are not there, or nothing is left to learn.
    """
    turns = training_turns(row.turns)
    marks = sum(turn.text.count(IMAGE) for turn in turns if turn.role == "user")
    if marks != len(row.image):
        raise DataError(f"row {row.id}: {marks} {IMAGE} marks for {len(row.image)} images; make them agree.")
    if sizes:
        turns = with_boxes(turns, processor.boxes, sizes)
    try:
        encoded = processor.cut(only_learned(processor.render(turns, sizes), turns), max_length)
    except ValueError as error:  # a role or words that the template drops, an image that cannot be taken
        raise DataError(f"row {row.id}: {error}.") from error
    if not encoded.n_supervised:
        raise DataError(
            f"row {row.id}: no supervised token in {max_length} tokens; shorten the row or raise max_length."
        )
    return Sample(encoded, row.image[: encoded.n_images])


def only_learned(rendered: Rendered, turns: Sequence[Message]) -> Rendered:
    """``rendered`` without labels on the assistant's messages that are not to be learned.

    In every family each message of the assistant is one unbroken run of labels, in order.

    Raises:
        ValueError: this wording joins messages, so that it cannot be said which labels are whose.
    """
    answers = [turn for turn in turns if turn.role == "assistant"]
    if all(turn.learned for turn in answers):
        return rendered
    labels = np.array(rendered.labels)
    said = np.concatenate([[False], labels != IGNORE, [False]])
    # Where supervision begins and ends: the changes come in pairs.
    runs = np.flatnonzero(said[1:] != said[:-1]).reshape(-1, 2)
    if len(runs) != len(answers):
        raise ValueError(f"{len(answers)} answers make {len(runs)} supervised texts; join or learn them all")
    for turn, (start, end) in zip(answers, runs, strict=True):
        if not turn.learned:
            labels[start:end] = IGNORE
    return replace(rendered, labels=labels.tolist())


def with_boxes(turns: Sequence[Message], boxes: Codec, sizes: Sequence[Size]) -> tuple[Message, ...]:
    """Turns as a model of another convention says them: boxes, and the request for one.

    ``sizes`` are those of the row's images, in order. A box is of the first image, and after a message that
    shows another one (a second look) of that; rows say it in 0..1 of its padded square. The request asks for
    the convention's form, in the words that asking uses too.
    """
    if boxes.name == VISCOT:
        return tuple(turns)
    found, asked = list(turns), ""
    shown, looked_at = 0, 0
    for number, turn in enumerate(turns):
        if turn.role != "assistant" and (marks := turn.text.count(IMAGE)):
            looked_at = shown + marks - 1 if shown else 0
            shown += marks
        if turn.role == "user":
            asked = turn.text
            if boxes.form and asks_for_box(asked):
                found[number] = replace(turn, text=f"{asked} {boxes.form}")
        elif says_box(turn, asked) and (parsed := parse_box(turn.text)).status is not BoxStatus.UNPARSABLE:
            found[number] = replace(turn, text=boxes.encode(parsed.box, sizes[looked_at]))
    return tuple(found)


def read_row(
    row: Conversation, root: Path, processor: TrainingProcessor, *, max_length: int
) -> tuple[Sample, list[View]]:
    """`encode` of a row, and its images from ``root``; raises as `encode` and `load_views` do.

    Where an image's tokens depend on its size, all are opened first.
    """
    if processor.image_side is not None:
        sample = encode(row, processor, max_length=max_length)
        return sample, load_views(root, sample.images)
    views = load_views(root, row.image)
    sizes = [view.image.size for view in views]
    sample = encode(row, processor, max_length=max_length, sizes=sizes)
    return sample, views[: len(sample.images)]


def token_lengths(
    mixture: Mixture, processor: TrainingProcessor, *, workers: int = 1, progress: Progress | None = None
) -> NDArray[np.int32]:
    """Tokens of every row as training renders it, ``int32[len]``; computed once and cached in the mixture.

    For people: training groups rows by an estimate from their bytes (``MixtureDataset.lengths``), which takes
    no pass of the tokenizer over millions of rows, and is the same on every machine.
    """
    length = partial(row_length, processor)
    return mixture.lengths(length, processor.key, workers=workers, progress=progress)


def row_length(processor: TrainingProcessor, row: Conversation) -> int:
    """Tokens of one row before any cut, image tokens included."""
    return len(processor.render(training_turns(row.turns), None).ids)


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
            if box is None:
                views.append(whole)
                continue
            views.append(crop(whole, exact_window(name) or crop_window(box, whole.image.size)))
    return views


def collate(
    samples: Sequence[Sample],
    images: Batch,
    *,
    pad_id: int,
    multiple: int = 1,
    tokens: Sequence[Mapping[str, torch.Tensor]] = (),
) -> Batch:
    """``input_ids, attention_mask, labels`` as ``int64[B, T]`` padded at the right, beside ``images``.

    ``images`` are the model's inputs of all images of the batch, in the order of their slots; ``tokens`` are
    other values of each sample's tokens (``RowInputs.tokens``).
    """
    ids = pad([s.encoded.ids for s in samples], pad_id, multiple=multiple)
    labels = pad([s.encoded.labels for s in samples], IGNORE, multiple=multiple)
    mask = pad([[1] * len(s.encoded.ids) for s in samples], 0, multiple=multiple)
    known = {"input_ids": _tensor(ids), "attention_mask": _tensor(mask), "labels": _tensor(labels)}
    rows = [[number] for number in range(len(samples))]
    return known | laid_out(tokens, rows, len(ids[0])) | images


def laid_out(
    tokens: Sequence[Mapping[str, torch.Tensor]], rows: Sequence[Sequence[int]], length: int
) -> Batch:
    """Values ``[..., tokens]`` of samples as ``[..., rows, length]``, ``rows`` naming the samples of each.

    What no sample fills is 0: the kind of text, and a position that nothing reads.
    """
    import torch

    found: Batch = {}
    for name in tokens[0] if tokens else ():
        like = tokens[0][name]
        found[name] = like.new_zeros((*like.shape[:-1], len(rows), length))
        for number, row in enumerate(rows):
            joined = torch.cat([tokens[index][name] for index in row], -1)
            found[name][..., number, : joined.shape[-1]] = joined
    return found


def _tensor(rows: list[list[int]]) -> torch.Tensor:
    """``int64[B, T]``; numpy reads lists several times faster than torch."""
    import torch

    return torch.from_numpy(np.array(rows, np.int64))
