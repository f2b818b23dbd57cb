"""The rows of a stage: memory-mapped files, images decoded by the loader's workers, padded or packed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from viscot_core.boxes.geometry import MIN_CROP_SIDE, Box, Size
from viscot_core.conversation import IMAGE
from viscot_core.data.annotations import split_crop
from viscot_core.data.encode import Batch, Sample, collate, read_row
from viscot_core.data.mixture import Mixture
from viscot_core.data.packing import collate_one_row, collate_packed
from viscot_core.data.sampler import filled, length_order, modality_length_order
from viscot_core.errors import DataError
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.families.training import RowInputs, TrainingProcessor
from viscot_core.images.reading import open_image
from viscot_core.paths import inside
from viscot_core.train.loop.layout import Layout
from viscot_core.train.objectives.token_loss import with_targets
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import StageSpec

BYTES_PER_TOKEN = 4.5
"""Bytes of a JSON row per token of its text: close enough to group 2.4 million rows by length untokenized.

Lengths measured by `viscot data` are not used: a machine without them would have another order of rows."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row, ready to collate: its sample and what the model reads beside it."""

    row: int
    sample: Sample
    inputs: RowInputs


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be learned from, and why. It is counted; no other row takes its place."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that ``legacy_crop`` leaves out: its place in the batch stays empty; it does not count as bad."""

    row: int


class MixtureDataset(Dataset[EncodedRow | BadRow | DroppedRow]):
    """The rows of a stage's files under one numbering: the second file's follow the first's."""

    def __init__(
        self,
        files: Sequence[Path],
        images: Path,
        processor: TrainingProcessor,
        stage: StageSpec,
        *,
        legacy_crop: bool = False,
        layout: Layout | None = None,
    ) -> None:
        """``layout`` may change until the loader's workers start; None: packed if the stage says so."""
        self._mixtures = [Mixture.open(path) for path in files]
        self._ends = list(accumulate(len(mixture) for mixture in self._mixtures))
        self._images, self._processor, self.stage = images, processor, stage
        self.layout: Layout = layout or ("packed" if stage.packing else "padded")
        self._legacy_crop = legacy_crop

    def __len__(self) -> int:
        return self._ends[-1]

    def raw(self, index: int) -> bytes:
        """The row's JSON text."""
        # `_ends` are running totals: the first one above the index belongs to the row's file.
        number = bisect_right(self._ends, index)
        return self._mixtures[number].raw(index - (self._ends[number - 1] if number else 0))

    def __getitem__(self, index: int) -> EncodedRow | BadRow | DroppedRow:
        number = bisect_right(self._ends, index)
        mixture = self._mixtures[number]
        try:
            row = mixture[index - (self._ends[number - 1] if number else 0)]
            if self._legacy_crop and any(reference_drops(self._images, name) for name in row.image):
                return DroppedRow(index)
            length = self.stage.max_length
            sample, views = read_row(row, self._images, self._processor, max_length=length)
        except DataError as error:  # an ImageError among them
            return BadRow(index, f"{mixture.path.name}: {error}")
        images = [view.image for view in views]
        return EncodedRow(index, sample, self._processor.row_inputs(sample.encoded, images))

    def lengths(self) -> NDArray[np.int64]:
        """Estimated tokens of each row with its images, ``int64[rows]``; negative for rows without images."""
        sizes = np.concatenate([mixture.sizes() for mixture in self._mixtures])
        images = np.concatenate([mixture.count(IMAGE.encode()) for mixture in self._mixtures])
        text = np.maximum(1, (sizes / BYTES_PER_TOKEN).astype(np.int64))
        # `modality_length_order` reads from the sign whether a row has images.
        return np.where(images > 0, text + images * self._processor.image_tokens, -text)

    def epoch(self, seed: int) -> NDArray[np.int64]:
        """Row numbers of one epoch in file order, each as often as its source's weight says, ``int64[n]``."""
        starts = [0, *self._ends[:-1]]
        parts = [mixture.epoch(0, seed) for mixture in self._mixtures]
        return np.concatenate([start + part for start, part in zip(starts, parts, strict=True)])

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """Row numbers of one epoch, whole optimizer steps long, ``int64[steps * split.total]``.

        Grouping works on one step's rows at a time: the same rows share a step on any number of processes.
        """
        generator = torch.Generator().manual_seed(seed)
        grouping, chunks = self.stage.group_by, split.accumulation * split.processes
        rows = self.epoch(seed)
        if grouping == "none":
            order = torch.randperm(len(rows), generator=generator).numpy()
        elif grouping == "length":
            order = length_order(np.abs(self.lengths()[rows]), split.per_device, chunks, generator)
        else:
            # It also draws from torch's global generator, as the reference does: seeded here, then restored.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                order = modality_length_order(self.lengths()[rows], split.per_device, chunks, generator)
        return filled(rows[order], split.total)

    def collate(self, items: list[EncodedRow | BadRow | DroppedRow]) -> Batch:
        """Inputs and labels, ``rows`` (numbers), ``bad`` (a count) and ``tokens`` (those without padding)."""
        good = [item for item in items if isinstance(item, EncodedRow)]
        batch = self.batch(good) if good else self._nothing()
        batch["rows"] = torch.tensor([item.row for item in items])
        batch["bad"] = torch.tensor(sum(isinstance(item, BadRow) for item in items))
        return batch

    def batch(self, good: list[EncodedRow]) -> Batch:
        """Inputs and labels of good rows, as ``layout`` says."""
        samples, inputs = [item.sample for item in good], [item.inputs for item in good]
        made, tokens = self._processor.image_inputs, [one.tokens for one in inputs]
        pad_id = self._processor.pad_id
        if self.layout == "one row":
            batch = collate_one_row(samples, pad_id=pad_id, tokens=tokens) | made(inputs)
        elif self.layout == "packed":
            batch, order = collate_packed(
                samples, pad_id=pad_id, capacity=self.stage.max_length, tokens=tokens
            )
            # Packing reorders samples; the images of a batch are flat, and follow.
            batch |= made([inputs[index] for index in order])
        else:
            batch = collate(samples, made(inputs), pad_id=pad_id, tokens=tokens)
        batch["tokens"] = torch.tensor(sum(len(s.encoded.ids) for s in samples))
        return with_targets(batch)

    def _nothing(self) -> Batch:
        """A batch without any label, so that every rank still takes part in the step."""
        encoded = Rendered([self._processor.pad_id] * 2, [IGNORE] * 2, 0)
        row = EncodedRow(-1, Sample(encoded, ()), self._processor.row_inputs(encoded, []))
        return {**self.batch([row]), "tokens": torch.tensor(0)}


def reference_drops(images: Path, name: str) -> bool:
    """Whether the reference silently swaps a row with this image for another, drawn at random."""
    path, box = split_crop(name)
    return box is not None and touches_border(box, open_image(inside(images, path)).size)


def touches_border(box: Box, size: Size) -> bool:
    """Whether the reference's training crop of ``box`` (original pixels) leaves an image of ``size``.

    The reference truncates to whole pixels at every step: corners, centre, half side.
    """
    x0, y0, x1, y1 = (int(number) for number in box.coords)
    half = max(max(x1 - x0, y1 - y0) // 2, MIN_CROP_SIDE // 2)
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    return x - half < 0 or y - half < 0 or x + half > size[0] or y + half > size[1]
