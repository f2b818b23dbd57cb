"""The held-out rows of a stage: opened as its training rows are, and compared with them at the start."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.state.initial import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of ``of`` held-out rows are trained on too, and of how many the image is."""

    of: int
    rows: int
    images: int


def held_out_stage(run: Run, stage: StageSpec) -> tuple[Run, StageSpec]:
    """The same stage over its held-out rows, with the plain cross-entropy as its loss."""
    assert stage.eval is not None and stage.eval.file is not None
    change = {"files": (stage.eval.file,), "token_weights": None, "guide_attention": None, "packing": False}
    own = stage.model_copy(update=change)
    return replace(run, recipe=run.recipe.model_copy(update={"stages": (own,)})), own


def spread(rows: int, count: int) -> list[int]:
    """At most ``count`` of the numbers below ``rows``, evenly spread and the same every time."""
    count = min(rows, count)
    return [round(i * (rows - 1) / max(1, count - 1)) for i in range(count)]


def check(run: Run, stage: StageSpec) -> None:
    """Compare a stage's held-out rows with its training rows, where it is evaluated at all.

    Raises:
        DataError: a held-out row is trained on (unless the recipe allows it), or there is no row at all.
    """
    if stage.eval is None or stage.eval.file is None:
        return
    found = overlap(run.root / stage.eval.file, [run.root / name for name in stage.data_files])
    if found.rows and not stage.eval.allow_overlap:
        raise DataError(
            f"{stage.eval.file}: {found.rows} of {found.of} held-out rows are also in the training files, so "
            f"its figures would mean nothing; give other rows (--eval-data), or keep them with --set "
            f"stages.{stage.kind}.eval.allow_overlap=true."
        )
    if found.images:
        log.warning(
            "%s: the image of %d of %d held-out rows is in the training files too, with other words",
            stage.eval.file, found.images, found.of,
        )  # fmt: skip


def overlap(held_out: Path, files: Sequence[Path]) -> Overlap:
    """Count the held-out rows that training reads too; ids do not matter. `DataError`: a damaged row."""
    keys, names = [], []
    for row in Mixture.open(held_out):
        keys.append(_key(row))
        names.append({split_crop(path)[0] for path in row.image})
    wanted, known = set(keys), set().union(*names)
    seen: set[bytes] = set()
    seen_images: set[str] = set()
    for path in files:
        for row in _readable(Mixture.open(path)):
            seen_images |= known.intersection(split_crop(name)[0] for name in row.image)
            if (key := _key(row)) in wanted:
                seen.add(key)
    same = sum(key in seen for key in keys)
    shared = sum(bool(images & seen_images) for images in names)
    return Overlap(len(keys), same, shared)


def _key(row: Conversation) -> bytes:
    """A digest of images and words."""
    content = json.dumps([row.image, [(turn.role, turn.text) for turn in row.turns]])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _readable(rows: Mixture) -> Iterator[Conversation]:
    for index in range(len(rows)):
        try:
            yield rows[index]
        except DataError:  # counted by the loader, where it is met
            continue
