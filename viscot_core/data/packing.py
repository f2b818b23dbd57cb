"""Packing: the samples of one batch laid end to end in few rows of nearly equal length.

Position ids restart with every sample and no attention mask is passed; transformers then lets each sample see
itself only (sdpa and eager, with ``use_cache=False``), and the logits equal those of unpacked rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from viscot_core.data.encode import IGNORE, Sample

Batch = dict[str, torch.Tensor]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of ``lengths`` dealt to as few rows as possible, none longer than ``capacity``, filled
    evenly.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    count = max(1, -(-sum(lengths) // capacity))
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        totals = [0] * count
        for index in longest_first:
            target = totals.index(min(totals))
            rows[target].append(index)
            totals[target] += lengths[index]
        if max(totals) <= capacity or count == len(lengths):
            return [row for row in rows if row]
        count += 1


def collate_packed(samples: Sequence[Sample], *, pad_id: int, capacity: int) -> tuple[Batch, list[int]]:
    """``input_ids, position_ids, labels int64[rows, T]`` and the order the samples' pictures must take.

    The first label of every sample is masked: it would be predicted from the sample before. Padding at a
    row's end is a sample of its own, seen by none.
    """
    rows = pack([len(s.encoded.ids) for s in samples], capacity)
    longest = max(sum(len(samples[i].encoded.ids) for i in row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full((len(rows), longest), IGNORE)
    positions = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        start = 0
        for index in row:
            encoded = samples[index].encoded
            end = start + len(encoded.ids)
            ids[number, start:end] = torch.tensor(encoded.ids)
            labels[number, start + 1 : end] = torch.tensor(encoded.labels[1:])
            positions[number, start:end] = torch.arange(end - start)
            start = end
        positions[number, start:] = torch.arange(longest - start)
    order = [index for row in rows for index in row]
    return {"input_ids": ids, "position_ids": positions, "labels": labels}, order
