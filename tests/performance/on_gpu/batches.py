"""The samples of a training step and their micro-batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from on_gpu.bench import Bench
from on_gpu.made import WORDS
from on_gpu.variants import Variant
from on_gpu.viscot_side import BOX, one_row_batch, packed_batch, padded_batch


def training_rows(count: int) -> list[dict[str, Any]]:
    """Half chains with two images, half conversations about one."""
    draw = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randrange(low, high)))

    rows = []
    for number in range(count):
        if number % 2:
            said = [f"<image>\n{words(8, 20)}", BOX, "<image>", words(2, 12)]
            image = ["a.jpg", "a.jpg"]
        else:
            said = [f"<image>\n{words(8, 30)}", *(words(10, 70) for _ in range(5))]
            image = ["a.jpg"]
        turns = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(said)]
        rows.append({"id": str(number), "image": image, "conversations": turns})
    return rows


def micro_batches(
    b: Bench, samples: Sequence[Any], variant: Variant, per_device: int
) -> list[dict[str, Any]]:
    """The step's samples in batches of ``per_device``, on pinned memory, with pixels that are noise."""
    torch, pad = b.torch, b.train_tokens.pad_id
    side, made = b.size.side, []
    numbers = list(range(len(samples)))
    if variant.rows == "padded":  # as the loader groups them
        numbers.sort(key=lambda n: len(samples[n].encoded.ids))
    for start in range(0, len(numbers), per_device):
        some = numbers[start : start + per_device]
        chosen = [samples[n] for n in some]
        if variant.rows == "padded":
            batch = padded_batch(chosen, pad)
        elif variant.rows == "packed":
            batch, order = packed_batch(chosen, pad, 2048)
            some = [some[n] for n in order]
        else:
            batch = one_row_batch(chosen, pad)
        noise = [
            torch.randn(len(samples[n].images), 3, side, side, generator=torch.Generator().manual_seed(n))
            for n in some
        ]
        batch["pixel_values"] = torch.cat(noise).to(b.dtype)
        made.append(
            {k: v.pin_memory() if b.cuda and hasattr(v, "pin_memory") else v for k, v in batch.items()}
        )
    return made
