"""A data root read whole into memory: rows, scenes, pixels, and an order of rows of one kind a batch."""

from __future__ import annotations

import json
import logging
import os
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viscot_core.data.annotations import Conversation, Rows
from viscot_core.data.scenes import Scene
from viscot_core.train import ranks
from viscot_core.train.state.initial import Run
from viscot_core.train.tiny.pixel_cache import PixelCache, cached_pixels

log = logging.getLogger(__name__)


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


def patches_along(run: Run) -> int:
    """Patches along a side of the tower's input."""
    vision = run.model.config.vision_config
    return int(vision.image_size // vision.patch_size)


def pixels_of(run: Run) -> PixelCache:
    """The views of all stages in one cache beside the data, made by the first rank."""
    files = dict.fromkeys(run.root / name for stage in run.recipe.stages for name in stage.data_files)
    names = {name for path in files for row in read_conversations([path]) for name in row.image}
    with ranks.first_alone():
        cores = os.cpu_count() or 1
        return cached_pixels(run.images, names, run.side, run.root / ".cache", workers=cores)


def bucketed_order(buckets: Sequence[Hashable], batch: int, seed: int) -> NDArray[np.int64]:
    """Row numbers such that every ``batch`` neighbours share a bucket (same images, same padded length).

    What of a bucket fills no batch is left out of this epoch; another seed leaves out others. Where no bucket
    fills one (few rows, a large batch), each bucket's rows are repeated to one batch.
    """
    rng = random.Random(seed)
    members: dict[Hashable, list[int]] = defaultdict(list)
    order = list(range(len(buckets)))
    rng.shuffle(order)
    for row in order:
        members[buckets[row]].append(row)
    if all(len(rows) < batch for rows in members.values()):
        if members:
            log.warning("no %d of %d rows make a batch: rows are repeated", batch, len(buckets))
        members = {kind: list(np.resize(rows, batch)) for kind, rows in members.items()}
    batches = [
        rows[start : start + batch]
        for rows in members.values()
        for start in range(0, len(rows) - batch + 1, batch)
    ]
    rng.shuffle(batches)
    return np.array([row for one in batches for row in one], np.int64)
