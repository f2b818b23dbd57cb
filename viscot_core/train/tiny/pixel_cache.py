"""Resized views on disk, memory-mapped, shared by all loader workers: a small model reads them many times."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viscot_core.data.annotations import split_crop
from viscot_core.data.encode import load_views
from viscot_core.families.llava.pixels import square_pixels


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


def cached_pixels(
    root: Path,
    names: Iterable[str],
    side: int,
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PixelCache:
    """Open the cache of these views under ``folder``, building it first where it is not complete.

    The folder's name carries a digest of the names and the side, and the index is written last, so a cache
    cut short is built again and another list of views never meets it.
    """
    ordered = sorted(set(names), key=lambda name: (split_crop(name)[0], name))
    digest = hashlib.sha256(f"{root}\n{side}\n{json.dumps(ordered)}".encode()).hexdigest()[:16]
    target = folder / f"pixels-{side}-{digest}"
    if not (target / "index.json").exists():
        _build(root, ordered, side, target, workers, progress)
    return PixelCache(target)


def _build(
    root: Path,
    names: list[str],
    side: int,
    target: Path,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    target.mkdir(parents=True, exist_ok=True)
    shape = (len(names), side, side, 3)
    pixels = np.memmap(target / "pixels.u8", np.uint8, "w+", shape=shape)
    groups = [list(group) for _, group in groupby(names, key=lambda name: split_crop(name)[0])]
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
        with ProcessPoolExecutor(workers) as pool:
            for views in pool.map(make, groups, chunksize=16):
                store(views)
    pixels.flush()
    temporary = target / "index.json.tmp"
    temporary.write_text(json.dumps({"side": side, "names": names}), encoding="utf-8")
    os.replace(temporary, target / "index.json")


def _resized(root: Path, side: int, names: list[str]) -> list[NDArray[np.uint8]]:
    return [square_pixels(view.image, side) for view in load_views(root, names)]
