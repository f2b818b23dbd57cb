"""What a stage reads: rows of conversations, or the foundation stage's images with their patch truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from viscot_core.boxes.geometry import crop_window
from viscot_core.data.annotations import Conversation, Rows, split_crop
from viscot_core.data.collate import Batch, collate
from viscot_core.data.encode import Sample, encode
from viscot_core.data.sampler import bucketed_order
from viscot_core.data.scenes import Scene
from viscot_core.data.views import PixelCache
from viscot_core.families.llava.chat import ChatTokenizer
from viscot_core.families.llava.pixels import normalise, square_pixels
from viscot_core.families.llava.template import Template
from viscot_core.train.batch import Split
from viscot_core.train.foundation import PatchTruth, make_sheet, patch_truth
from viscot_core.train.guides import guide_tensors, guides_of, token_weights
from viscot_core.train.schema import StageSpec

PAD_MULTIPLE = 32
"""Rows are padded to a multiple of this many tokens, so that a compiled model meets few shapes."""


def read_conversations(files: Sequence[Path]) -> list[Conversation]:
    """All rows of these JSON or JSONL files."""
    return [row for path in files for row in Rows(path, Conversation)]


def read_scenes(path: Path) -> dict[str, Scene]:
    """Scenes of a synthetic data root by image path; empty where the root has no ``scenes.jsonl``."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["image"]: Scene.from_json(row) for row in rows}


class ChainRows(Dataset[Sample]):
    """Encoded conversations; ``collate`` turns some of them into a batch."""

    def __init__(
        self,
        rows: Sequence[Conversation],
        pixels: PixelCache,
        tokens: ChatTokenizer,
        template: Template,
        stage: StageSpec,
        scenes: dict[str, Scene],
        grid: int,
    ) -> None:
        self.samples = [encode(row, tokens, template, max_length=stage.max_length) for row in rows]
        self._pixels, self._tokens, self._stage, self._scenes, self._grid = (
            pixels,
            tokens,
            stage,
            scenes,
            grid,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """Steps of one bucket each, whatever the number of processes."""
        buckets = [(s.encoded.n_images, -(-len(s.encoded.ids) // PAD_MULTIPLE)) for s in self.samples]
        return np.array(bucketed_order(buckets, split.total, seed), np.int64)

    def collate(self, samples: list[Sample]) -> Batch:
        pixels = [normalise(self._pixels[name]) for sample in samples for name in sample.images]
        batch = collate(samples, pixels, pad_id=self._tokens.pad_id, multiple=PAD_MULTIPLE)
        length = batch["input_ids"].shape[1]
        if self._stage.token_weights:
            weights = [token_weights(s, self._tokens, self._stage.token_weights) for s in samples]
            padded = [[*w, *[0.0] * (length - len(w))] for w in weights]
            batch["weights"] = torch.tensor(padded)
        if self._stage.guide_attention:
            batch |= guide_tensors([self._guides(sample) for sample in samples], length)
        return batch

    def _guides(self, sample: Sample) -> list[Any]:
        scene = self._scenes.get(split_crop(sample.images[0])[0]) if sample.images else None
        return guides_of(sample, scene, self._tokens, self._grid) if scene else []


class FoundationRows(Dataset[tuple[NDArray[np.uint8], PatchTruth]]):
    """Views of scenes and sheets full of numbers, ``sheet_share`` of them sheets."""

    def __init__(
        self, pixels: PixelCache, names: Sequence[str], scenes: dict[str, Scene], *, sheets: int, grid: int
    ) -> None:
        self._pixels, self._names, self._scenes, self._grid = pixels, list(names), scenes, grid
        self._sheets = sheets

    def __len__(self) -> int:
        return len(self._names) + self._sheets

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], PatchTruth]:
        side = self._pixels.side
        if index >= len(self._names):
            image, scene = make_sheet(index)
            return square_pixels(image, side), patch_truth(scene, (0, 0, *scene.size), self._grid, side)
        name = self._names[index]
        path, box = split_crop(name)
        scene = self._scenes[path]
        window = (0, 0, *scene.size) if box is None else crop_window(box, scene.size)
        return self._pixels[name], patch_truth(scene, window, self._grid, side)

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """Whole steps, whatever the number of processes."""
        return np.array(bucketed_order([0] * len(self), split.total, seed), np.int64)

    def collate(self, rows: list[tuple[NDArray[np.uint8], PatchTruth]]) -> Batch:
        batch = {"pixel_values": torch.from_numpy(np.stack([normalise(pixels) for pixels, _ in rows]))}
        for name in ("color", "glyph", "tens", "units", "box"):
            batch[name] = torch.from_numpy(np.stack([getattr(truth, name) for _, truth in rows]))
        return batch
