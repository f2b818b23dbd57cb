"""Samples -> one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from viscot_core.data.encode import Sample, pad
from viscot_core.families.base import IGNORE

Batch = dict[str, torch.Tensor]


def collate(
    samples: Sequence[Sample],
    pixels: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    *,
    pad_id: int,
    multiple: int = 1,
) -> Batch:
    """``input_ids, attention_mask, labels`` as ``int64[B, T]`` padded at the right; ``pixel_values``
    ``float32[all images of the batch, 3, H, W]`` in image-token order (if there are any)."""
    ids = pad([s.encoded.ids for s in samples], pad_id, multiple=multiple)
    labels = pad([s.encoded.labels for s in samples], IGNORE, multiple=multiple)
    mask = pad([[1] * len(s.encoded.ids) for s in samples], 0, multiple=multiple)
    batch = {
        "input_ids": _tensor(ids),
        "attention_mask": _tensor(mask),
        "labels": _tensor(labels),
    }
    if len(pixels):
        batch["pixel_values"] = torch.from_numpy(np.asarray(pixels))
    return batch


def _tensor(rows: list[list[int]]) -> torch.Tensor:
    """``int64[B, T]``; numpy reads lists several times faster than torch."""
    return torch.from_numpy(np.array(rows, np.int64))
