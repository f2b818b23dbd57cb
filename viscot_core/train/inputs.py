"""Which rows a stage reads: small images from a cache for a model from nothing, else rows of big files."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viscot_core.data.collate import Batch
from viscot_core.data.mixture import Mixture
from viscot_core.data.scenes import Scene
from viscot_core.data.views import PixelCache, cached_pixels
from viscot_core.errors import UsageError
from viscot_core.families.llava.template import Template
from viscot_core.train import checkpoints, ranks
from viscot_core.train.batch import Split
from viscot_core.train.feed import MixtureRows
from viscot_core.train.preflight import preflight, require
from viscot_core.train.rows import ChainRows, FoundationRows, read_conversations, read_scenes
from viscot_core.train.schema import Recipe, StageSpec
from viscot_core.train.start import Run

log = logging.getLogger(__name__)


class StageRows(Protocol):
    """A data set that knows its order and how its rows become a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def order(self, split: Split, seed: int) -> NDArray[np.int64]: ...

    def collate(self, rows: list[Any]) -> Batch: ...


def check_rows(state: Run, stage: StageSpec, template: Template, out: Path) -> None:
    """Before any weight is loaded, once for all ranks: the rows are those of the last checkpoint, and the
    preflight finds them good.
    """
    if ranks.rank() == 0:
        try:
            checkpoints.require_same_rows(checkpoints.last_checkpoint(out), row_counts(state, stage))
            if stage.kind != "foundation" and state.recipe.data.preflight:
                _preflight(state, stage, template, out)
        except Exception:
            ranks.agree("the rows did not pass the first rank's check")
            raise
        ranks.agree(None)
    elif problem := ranks.agree(None):
        raise UsageError(problem)


def row_counts(state: Run, stage: StageSpec) -> dict[str, int]:
    """Rows of an epoch of each of the stage's files: the order of rows is drawn from them."""
    return {name: len(Mixture.open(state.root / name).epoch()) for name in stage.data_files}


def _preflight(state: Run, stage: StageSpec, template: Template, out: Path) -> None:
    """Its report and the first sample go to ``preflight.txt``."""
    report = preflight(
        [state.root / name for name in stage.data_files],
        state.images,
        state.tokens,
        template,
        max_length=stage.max_length,
        count=state.recipe.data.preflight,
    )
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"{report.looked_at} samples looked at, {len(report.bad)} bad", *report.bad, report.sample]
    (out / "preflight.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = f"; the first sample, supervised text marked:\n{report.sample}" if report.sample else ""
    log.info("preflight of %s: %s%s", stage.kind, lines[0], shown)
    require(report, state.recipe.data.allow_bad)


def open_rows(state: Run, stage: StageSpec, template: Template) -> StageRows:
    """The rows of a stage."""
    root = state.root
    files = [root / name for name in stage.data_files]
    scenes = read_scenes(root / "scenes.jsonl") if stage.foundation or stage.guide_attention else {}
    if stage.kind == "foundation":
        conversations = read_conversations(files)
        names = sorted({name for row in conversations for name in row.image})
        return _foundation_rows(stage, _pixels(state), names, scenes, state.grid)
    if state.recipe.model.scratch and not stage.packing and stage.group_by == "none":
        conversations = read_conversations(files)
        pixels = _pixels(state)
        return ChainRows(conversations, pixels, state.tokens, template, stage, scenes, state.grid)
    legacy_crop = state.recipe.data.legacy_crop
    return MixtureRows(
        files, state.images, state.tokens, template, stage, side=state.side, legacy_crop=legacy_crop
    )


def _foundation_rows(
    stage: StageSpec, pixels: PixelCache, names: list[str], scenes: dict[str, Scene], grid: int
) -> FoundationRows:
    assert stage.foundation is not None
    if not scenes:
        raise UsageError(
            "A foundation stage needs scenes.jsonl in the data root; make it with `viscot data synth`."
        )
    share = stage.foundation.sheet_share
    sheets = math.floor(len(names) * share / (1 - share)) if share < 1 else len(names)
    return FoundationRows(pixels, names, scenes, sheets=sheets, grid=grid)


def _pixels(state: Run) -> PixelCache:
    """The views of all stages in one cache beside the data, made by the first rank."""
    names = {name for path in _files(state.recipe, state.root) for row in read_conversations([path])
             for name in row.image}  # fmt: skip
    with ranks.first_alone():
        return cached_pixels(
            state.images, names, state.side, state.root / ".cache", workers=os.cpu_count() or 1
        )


def _files(recipe: Recipe, root: Path) -> list[Path]:
    """Every training file of the recipe, each once."""
    return [root / name for name in dict.fromkeys(n for stage in recipe.stages for n in stage.data_files)]
