"""The held-out rows of a stage: opened as its training rows are, and compared with them at the start."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError
from viscot_core.train.evaluation.questions import questions_of
from viscot_core.train.preferences.pairs import pair_in
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.state.initial import Run

log = logging.getLogger(__name__)
Read = Callable[[Mixture], Iterator[Conversation]]
_STORED = re.compile(r"[0-9a-f]{64}\.\w+$")
"""The name of a stored image (``data.formats``): its sha256."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of ``of`` held-out rows are trained on too, and of how many the image is."""

    of: int
    rows: int
    images: int


def held_out_stage(run: Run, stage: StageSpec) -> tuple[Run, StageSpec]:
    """The same stage over its held-out rows, with the plain cross-entropy as its loss."""
    assert stage.eval is not None and stage.eval.file is not None
    change: dict[str, Any] = {"files": (stage.eval.file,), "packing": False}
    change |= {"token_weights": None, "guide_attention": None}
    if stage.kind in ("dpo", "grpo"):
        change |= {"kind": "finetune", "preference": None, "reinforce": None}
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
    read = _pairs if stage.kind == "dpo" else _readable
    found = overlap(run.root / stage.eval.file, [run.root / name for name in stage.data_files], read)
    if found.rows and not stage.eval.allow_overlap:
        raise DataError(
            f"{stage.eval.file}: {found.rows} of {found.of} held-out rows are also in the training files, so "
            f"its figures would mean nothing; give other rows (--eval-data), or keep them with --set "
            f"stages.{stage.kind}.eval.allow_overlap=true."
        )
    _check_questions(run, stage)
    if found.rows:
        log.warning("%s: %d of %d rows are trained on too", stage.eval.file, found.rows, found.of)
    if found.images > found.rows:
        log.warning(
            "%s: the image of %d of %d held-out rows is in the training files too, with other words",
            stage.eval.file, found.images - found.rows, found.of,
        )  # fmt: skip


def _check_questions(run: Run, stage: StageSpec) -> None:
    spec = stage.eval
    if spec is None or spec.file is None or spec.bench or not spec.questions:
        return
    if questions_of(run.root / spec.file, run.images):
        return
    says = (
        f"{spec.file}: no held-out row can be asked (that needs an image, words and a short answer or a box)"
    )
    if spec.best != "loss":
        raise DataError(
            f"{says}; set eval.best to loss, or name a benchmark of the data root with eval.bench."
        )
    log.warning("%s; only their loss is measured", says)


def overlap(held_out: Path, files: Sequence[Path], read: Read | None = None) -> Overlap:
    """Count the held-out rows that training reads too; ids do not matter. `DataError`: a damaged row.

    ``read`` gives the rows of a training file as conversations, where they are others (pairs).
    """
    keys, names = [], []
    for row in Mixture.open(held_out):
        keys.append(_key(row))
        names.append(set(_image_names(row)))
    wanted, known = set(keys), set().union(*names)
    seen: set[bytes] = set()
    seen_images: set[str] = set()
    for path in files:
        for row in (read or _readable)(Mixture.open(path)):
            seen_images |= known.intersection(_image_names(row))
            if (key := _key(row)) in wanted:
                seen.add(key)
    same = sum(key in seen for key in keys)
    shared = sum(bool(images & seen_images) for images in names)
    return Overlap(len(keys), same, shared)


def _key(row: Conversation) -> bytes:
    """A digest of images and words."""
    content = json.dumps([_image_names(row), [(turn.role, turn.text) for turn in row.turns]])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _image_names(row: Conversation) -> list[str]:
    """Its images; one that stood in the row itself is named by its content, wherever it was stored."""
    names = (split_crop(path)[0] for path in row.image)
    return [match[0] if (match := _STORED.search(name)) else name for name in names]


def _pairs(rows: Mixture) -> Iterator[Conversation]:
    """Pairs with the reply that is preferred."""
    for index in range(len(rows)):
        try:
            pair = pair_in(rows, index)
        except DataError:  # counted by the loader, where it is met
            continue
        yield Conversation.model_construct(image=pair.images, turns=pair.turns("chosen"))


def _readable(rows: Mixture) -> Iterator[Conversation]:
    for index in range(len(rows)):
        try:
            yield rows[index]
        except DataError:  # counted by the loader, where it is met
            continue
