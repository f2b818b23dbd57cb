"""``--eval-split``: rows held out of the training files, by image, once for the whole run.

All rows about one image go to the same side, which a digest of the image's name and the seed decides: what is
held out does not depend on the order of the rows, and no held-out image is trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from viscot_core.data.annotations import split_crop
from viscot_core.data.formats.made_once import made_once
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError, UsageError
from viscot_core.train.recipe.schema import Recipe, StageSpec
from viscot_core.train.state.run_folder import ROWS, holds_run

HELD_OUT = "held_out.jsonl"
ABOUT = "split.json"


def with_split(recipe: Recipe, root: Path, run: Path) -> tuple[Recipe, list[str]]:
    """The recipe with every ``eval.split`` carried out in ``RUN/rows``, and a line about each.

    Raises:
        DataError: nothing would be held out or left to train on, or the rows changed since the run began.
        UsageError: a file that is a mixture's folder.
    """
    stages, notes = [], []
    for number, stage in enumerate(recipe.stages, 1):
        if stage.eval is None or stage.eval.split is None:
            stages.append(stage)
            continue
        seed = recipe.seed if stage.seed is None else stage.seed
        place = (run / ROWS / f"{number}-{stage.kind}").absolute()
        about = _carried_out(stage, stage.eval.split, seed, root, place, started=holds_run(run))
        held = stage.eval.model_copy(update={"file": str(place / HELD_OUT), "split": None})
        files = tuple(str(place / name) for name in about["files"])
        stages.append(stage.model_copy(update={"files": files, "eval": held}))
        notes.append(f"{about['held_out']} of {about['rows']} rows are held out (eval.split), in {place}")
    return recipe.model_copy(update={"stages": tuple(stages)}), notes


def _carried_out(
    stage: StageSpec, share: float, seed: int, root: Path, place: Path, *, started: bool
) -> dict[str, Any]:
    """What ``split.json`` says; the files are written where they are not there yet."""
    paths = [root / name for name in stage.data_files]
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a mixture; hold rows out yourself and give them with --eval-data.")
    source = {"share": share, "seed": seed, "of": [_stamp(path) for path in paths]}
    make = partial(_split, paths, share, seed)
    return made_once(place, ABOUT, source, make, started=started, what="the rows, the seed or eval.split")


def _split(paths: Sequence[Path], share: float, seed: int, folder: Path) -> dict[str, Any]:
    names, rows, kept = [], 0, 0
    with ExitStack() as files:
        held_out = files.enter_context((folder / HELD_OUT).open("wb"))
        for number, path in enumerate(paths, 1):
            names.append(f"{number}-{path.stem}.jsonl")
            training = files.enter_context((folder / names[-1]).open("wb"))
            mixture = Mixture.open(path)
            for index in range(len(mixture)):
                held = is_held_out(_subject(mixture, index), share, seed)
                (held_out if held else training).write(b" ".join(mixture.raw(index).split(b"\n")) + b"\n")
                rows, kept = rows + 1, kept + held
    if not 0 < kept < rows:
        raise DataError(f"eval.split {share:g} holds out {kept} of {rows} rows; give another share.")
    return {"rows": rows, "held_out": kept, "files": names}


def is_held_out(subject: str, share: float, seed: int) -> bool:
    """Whether rows about ``subject`` (an image's name) are held out."""
    digest = hashlib.blake2b(f"{seed}/{subject}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _subject(mixture: Mixture, index: int) -> str:
    """What a row is about: its first image, or its words where it has none."""
    try:
        row = mixture[index]
    except DataError:  # the loader counts it; it stays where its text falls
        return mixture.raw(index).decode("utf-8", "replace")
    return split_crop(row.image[0])[0] if row.image else "\n".join(turn.text for turn in row.turns)


def _stamp(path: Path) -> list[str | int]:
    about = path.stat()
    return [str(path.absolute()), about.st_size, about.st_mtime_ns]
