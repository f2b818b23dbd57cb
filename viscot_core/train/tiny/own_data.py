"""What the tiny model starts from and reads: random weights, its own tokenizer, rows and pixels in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscot_core.boxes.geometry import crop_window
from viscot_core.data.annotations import Conversation, Rows, split_crop
from viscot_core.data.encode import load_views, training_turns
from viscot_core.data.scenes import Scene
from viscot_core.data.search.scenes import SearchScene, draw_window
from viscot_core.families.llava.pixels import square_pixels
from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.families.llava.scratch import build_model, scratch_config, train_tokenizer
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.families.training import TrainingProcessor
from viscot_core.processes import worker_pool
from viscot_core.train import ranks
from viscot_core.train.recipe.schema import Recipe
from viscot_core.train.recipe.tiny_specs import ScratchSpec

log = logging.getLogger(__name__)

TOKENIZER_ROWS = 4000
"""Rows of each file whose words the tokenizer is trained on."""


DRAWN_SIDE = 448
"""Longer side in which a view without a file is drawn, before it is resized as a file's would be."""


def random_model(recipe: Recipe, processor: TrainingProcessor) -> Any:
    """The recipe's shape with random weights, the same for the same seed."""
    model = recipe.model
    assert model.scratch is not None and isinstance(processor, ChatProcessor)
    return build_model(
        model.scratch,
        processor.tokens.hf,
        feature_layer=model.feature_layer,
        attention=model.attention,
        seed=recipe.seed,
    )


def own_processor(folder: Path, recipe: Recipe, root: Path) -> ChatProcessor:
    """Its tokenizer is trained by the first rank and kept in the run folder ``folder``."""
    from transformers import AutoTokenizer

    scratch = recipe.model.scratch
    assert scratch is not None
    home = folder / "tokenizer"
    with ranks.first_alone():
        if not home.exists():
            _trained(recipe, scratch, root).save_pretrained(folder / "tokenizer.partial")
            (folder / "tokenizer.partial").replace(home)
    patches = (scratch.image_side // scratch.patch) ** 2
    tokenizer = AutoTokenizer.from_pretrained(home, trust_remote_code=False)
    tokens = ChatTokenizer(tokenizer, image_tokens=patches, turn_tokens=recipe.model.turn_tokens)
    config = scratch_config(scratch, tokenizer, feature_layer=recipe.model.feature_layer)
    return ChatProcessor(tokens, TEMPLATES[recipe.model.template], config, len(tokenizer))


def _trained(recipe: Recipe, scratch: ScratchSpec, root: Path) -> Any:
    template = TEMPLATES[recipe.model.template]
    files = dict.fromkeys(name for stage in recipe.stages for name in stage.data_files)
    rows = [row for name in files for row in islice(Rows(root / name, Conversation), TOKENIZER_ROWS)]
    texts = [c.text for row in rows for c in render(training_turns(row.turns), template).chunks if c.text]
    return train_tokenizer(texts, vocab_size=scratch.vocab_size, max_positions=scratch.max_positions)


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


def read_search_scenes(path: Path) -> dict[str, SearchScene]:
    """The same of `viscot data synth --kind search`; empty for another kind."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["image"]: SearchScene.from_json(row) for row in rows if "cards" in row}


def pixels_of(recipe: Recipe, root: Path, images: Path, side: int) -> PixelCache:
    """The views of all stages in one cache beside the data, made by the first rank."""
    files = dict.fromkeys(root / name for stage in recipe.stages for name in stage.data_files)
    names = {name for path in files for row in read_conversations([path]) for name in row.image}
    with ranks.first_alone():
        return cached_pixels(
            images,
            names,
            side,
            root / ".cache",
            workers=os.cpu_count() or 1,
            drawn=read_search_scenes(root / "scenes.jsonl"),
        )


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


class PixelCache:
    """``uint8[N, side, side, 3]`` of padded and resized views in one memory-mapped file."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.side: int = index["side"]
        self._row = {name: row for row, name in enumerate(index["names"])}
        shape = (len(self._row), self.side, self.side, 3)
        self._pixels = np.memmap(folder / "pixels.u8", np.uint8, "r", shape=shape)

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, name: str) -> NDArray[np.uint8]:
        return np.asarray(self._pixels[self._row[name]])

    def row(self, name: str) -> int:
        """Where the view of this name lies in `all`."""
        return self._row[name]

    def all(self) -> NDArray[np.uint8]:
        """Every view, ``uint8[N, side, side, 3]``, read into memory."""
        return np.array(self._pixels)


def cached_pixels(
    root: Path,
    names: Iterable[str],
    side: int,
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    drawn: Mapping[str, SearchScene] | None = None,
) -> PixelCache:
    """Open the cache of these views under ``folder``, building it first where it is not complete.

    Images that have no file are those of ``drawn``: each view is drawn by itself. The folder's name carries a
    digest of the names and the side, and the index is written last, so a cache cut short is built again and
    another list of views never meets it.
    """
    # An image and its crops become neighbours, so that `_build` opens each image once.
    ordered = sorted(set(names), key=lambda name: (split_crop(name)[0], name))
    digest = hashlib.sha256(f"{root}\n{side}\n{json.dumps(ordered)}".encode()).hexdigest()[:16]
    target = folder / f"pixels-{side}-{digest}"
    if not (target / "index.json").exists():
        _build(root, ordered, side, target, workers, progress, drawn or {})
    return PixelCache(target)


def _build(
    root: Path,
    names: list[str],
    side: int,
    target: Path,
    workers: int,
    progress: Callable[[int, int], None] | None,
    drawn: Mapping[str, SearchScene],
) -> None:
    target.mkdir(parents=True, exist_ok=True)
    shape = (len(names), side, side, 3)
    pixels = np.memmap(target / "pixels.u8", np.uint8, "w+", shape=shape)
    groups: list[tuple[list[str], SearchScene | None]] = []
    for path, of_path in groupby(names, key=lambda name: split_crop(name)[0]):
        scene = None if (root / path).exists() else drawn.get(path)
        groups.append((list(of_path), scene))
    done = 0

    def store(views: list[NDArray[np.uint8]]) -> None:
        nonlocal done
        pixels[done : done + len(views)] = views
        done += len(views)
        if progress:
            progress(done, len(names))

    make = partial(_resized, root, side)
    if workers <= 1:
        for group in groups:
            store(make(group))
    else:
        with worker_pool(workers) as pool:
            for views in pool.map(make, groups, chunksize=16):
                store(views)
    pixels.flush()
    temporary = target / "index.json.tmp"
    temporary.write_text(json.dumps({"side": side, "names": names}), encoding="utf-8")
    os.replace(temporary, target / "index.json")


def _resized(root: Path, side: int, group: tuple[list[str], SearchScene | None]) -> list[NDArray[np.uint8]]:
    names, scene = group
    if scene is None:
        return [square_pixels(view.image, side) for view in load_views(root, names)]
    boxes = [split_crop(name)[1] for name in names]
    windows = [(0, 0, *scene.size) if box is None else crop_window(box, scene.size) for box in boxes]
    return [square_pixels(draw_window(scene, window, DRAWN_SIDE), side) for window in windows]
