"""From rows to optimizer steps: how many rows the files hold, how a global batch is split, how many steps.

The global batch is the invariant; the batch of one process and the accumulation follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscot_core.data.mixture import Mixture
from viscot_core.errors import RecipeError
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import StageSpec

CHARACTERS_PER_TOKEN = 3.6  # Llama's tokenizer on English with boxes
LOOKED_AT = 500  # rows of a file that are read for the mean length


@dataclass(frozen=True, slots=True)
class DataSize:
    """Rows of an epoch (each source by its weight), mean text tokens and mean images of a row; None: unknown.

    ``source`` says whether they were counted or published.
    """

    rows: int | None
    text_tokens: float | None
    images: float | None
    source: str


UNKNOWN = DataSize(None, None, None, "unknown (a file is absent or unreadable)")
PUBLISHED = {
    # LLaVA-1.5's stage 1: short captions, one image each.
    "blip_laion_cc_sbu_558k.json": DataSize(558_128, 20.0, 1.0, "published (LLaVA-Pretrain)"),
    # README: 665 K + 1.4 M + 373 K. Lengths are estimates; CoT rows show two images, 40 K rows none.
    "viscot_mixed_2m.json": DataSize(2_438_000, 200.0, 1.14, "published (README: 665 K + 1.4 M + 373 K)"),
    "viscot_363k.json": DataSize(363_000, 150.0, 2.0, "published (README)"),
}


def data_size(root: Path, files: Sequence[str]) -> DataSize:
    """The sum over ``files`` under ``root``; unknown as soon as one of them is absent and unpublished.

    Raises:
        DataError: a file is damaged or holds no row.
    """
    found = [_size_of(root / name) for name in files]
    if any(one.rows is None for one in found):
        return UNKNOWN
    rows = sum(one.rows or 0 for one in found)
    sources = " + ".join(dict.fromkeys(one.source for one in found))

    def mean(values: list[tuple[int, float | None]]) -> float | None:
        known = [(n, value) for n, value in values if value is not None]
        return sum(n * value for n, value in known) / rows if rows and len(known) == len(values) else None

    text = mean([(one.rows or 0, one.text_tokens) for one in found])
    return DataSize(rows, text, mean([(one.rows or 0, one.images) for one in found]), sources)


def _size_of(path: Path) -> DataSize:
    if not path.exists():
        return PUBLISHED.get(path.name, UNKNOWN)
    rows = Mixture.open(path)
    step = max(1, len(rows) // LOOKED_AT)
    looked = [rows[index] for index in range(0, len(rows), step)]
    text = sum(len(turn.text) for row in looked for turn in row.turns) / CHARACTERS_PER_TOKEN
    images = sum(len(row.image) for row in looked)
    return DataSize(len(rows.epoch()), text / len(looked), images / len(looked), "counted")


def split_batch(stage: StageSpec, processes: int, fits: Callable[[int], bool]) -> Split:
    """How ``stage``'s global batch is split: as the recipe says, else by the largest batch that ``fits``.

    Raises:
        RecipeError: there is no exact split; names the nearest possible ones.
    """
    where, total = f"stages.{stage.kind}", stage.global_batch_size
    if total % processes:
        below, above = total // processes * processes, (total // processes + 1) * processes
        batches = " or ".join(str(b) for b in (below, above) if b)
        counts = " or ".join(str(n) for n in _around(_divisors(total), processes))
        raise RecipeError(
            f"{where}.global_batch_size {total} does not split over {processes} processes; "
            f"use a batch of {batches}, or {counts} processes."
        )
    local = total // processes
    options = _divisors(local)
    if stage.per_device_batch_size:
        per_device = stage.per_device_batch_size
        if per_device not in options:
            nearest = " or ".join(map(str, _around(options, per_device)))
            raise RecipeError(
                f"{where}.per_device_batch_size {per_device} does not divide the {local} samples each of "
                f"{processes} processes takes of {total}; use {nearest}."
            )
    else:
        per_device = max((size for size in options if fits(size)), default=0)
        if not per_device:
            raise RecipeError(
                f"{where}: not even one sample fits in a process's memory (estimate); use more GPUs, "
                f"--set {where}.zero_stage=3, --set {where}.offload=optimizer, or --lora 128."
            )
    return Split(per_device, local // per_device, processes)


def steps_of(stage: StageSpec, rows: int) -> int:
    """Optimizer steps of ``stage`` with ``rows`` in an epoch; the last step of an epoch is filled up."""
    epoch = math.ceil(rows / stage.global_batch_size)
    return stage.max_steps or math.ceil(epoch * (stage.epochs or 1.0))


def _divisors(total: int) -> list[int]:
    return [d for d in range(1, total + 1) if total % d == 0]


def _around(options: list[int], wanted: int) -> list[int]:
    below = [option for option in options if option < wanted][-1:]
    above = [option for option in options if option > wanted][:1]
    return below + above
