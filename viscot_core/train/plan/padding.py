"""How much of a batch is padding: what a stage's grouping or packing of rows costs in time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import StageSpec

_BATCHES = 64


def is_packed(stage: StageSpec, attention: str, packs: bool) -> bool:
    """Whether a stage packs its samples: as it says, or where that pays for a family that ``packs``."""
    if (
        stage.packing is False
        or not packs
        or attention == "flash_attention_2"
        or stage.kind in ("dpo", "grpo")
    ):
        return False
    # Eager attention computes all pairs of a row, whatever its mask: a packed row costs more than padding.
    return attention != "eager" or bool(stage.packing)


def filled_share(lengths: Sequence[float], stage: StageSpec, split: Split, *, packed: bool) -> float:
    """Share of the computed cells that hold a token, for rows with ``lengths`` tokens (0..1].

    Where they are not ``packed`` (`is_packed`), some batches are made of rows that are drawn at random and
    grouped as the stage will do it.
    """
    if packed:  # all in one row
        return 1.0
    known = np.clip(np.asarray(lengths, np.float64).round().astype(np.int64), 1, stage.max_length)
    size, rows = split.per_device, max(split.total, split.per_device)
    random, tokens, cells = np.random.default_rng(0), 0, 0
    for _ in range(max(1, _BATCHES * size // rows)):
        drawn = random.choice(known, rows)
        if stage.group_by != "none":  # within one optimizer step, longest first
            drawn = np.sort(drawn)[::-1]
        for batch in drawn[: rows // size * size].reshape(-1, size)[:_BATCHES].tolist():
            tokens, cells = tokens + sum(batch), cells + size * max(batch)
    return tokens / cells
