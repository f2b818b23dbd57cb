"""Exact lengths in tokens, images included, for `viscot data mix` and `viscot data stats`.

Training groups rows by an estimate from their bytes instead (``train/loop/mixture_dataset.py``): it takes no
pass of the tokenizer over millions of rows, and is the same on every machine.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import training_turns
from viscot_core.data.mixture import Mixture, Progress
from viscot_core.families.training import TrainingProcessor


def token_lengths(
    mixture: Mixture, processor: TrainingProcessor, *, workers: int = 1, progress: Progress | None = None
) -> NDArray[np.int32]:
    """Tokens of every row as training renders it, ``int32[len]``; computed once and cached in the mixture."""
    length = partial(row_length, processor)
    return mixture.lengths(length, processor.key, workers=workers, progress=progress)


def row_length(processor: TrainingProcessor, row: Conversation) -> int:
    """Tokens of one row before any cut, image tokens included."""
    return len(processor.render(training_turns(row.turns), None).ids)
