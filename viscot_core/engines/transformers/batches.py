"""What runs together: how many prompts fit, and which of them share an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from viscot_core.engines.transformers.decode_state import Prompt

MOST_ROWS = 64
"""More prompts than this gain nothing by running together."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much runs together: ``rows`` prompts, or, with ``tokens``, as many as that many keys hold."""

    rows: int
    tokens: int | None = None

    def rows_of_one(self, before: int, own: int) -> int:
        """Prompts about one image, with ``before`` shared tokens and ``own`` tokens each."""
        if self.tokens is None:
            return self.rows
        return max(1, min(MOST_ROWS, (self.tokens - before) // own))

    def images(self, each: int, before: int, own: int) -> int:
        """Images with ``each`` prompts."""
        if self.tokens is None:
            return max(1, self.rows // each)
        return max(1, min(MOST_ROWS // each, self.tokens // (before + each * own)))


def by_image(prompts: Sequence[tuple[int, Prompt]], room: Room) -> Iterator[list[list[Prompt]]]:
    """Batches: groups of prompts about one image, groups of one size together; the longest first.

    A prompt comes with its ``cut``, the number of tokens it shares with others about its image: a group has
    the same words before the image too. Prompts with and without a second image differ in length by its
    tokens, so they never share a batch.
    """
    groups: dict[tuple[int, int, str, tuple[int, ...]], list[Prompt]] = defaultdict(list)
    own: dict[tuple[int, int], int] = defaultdict(int)
    for cut, prompt in prompts:
        views = len(prompt.views)
        groups[views, cut, prompt.views[0].key, tuple(prompt.ids[:cut])].append(prompt)
        own[views, cut] = max(own[views, cut], len(prompt.ids) - cut + prompt.speech.limit)
    alike: dict[tuple[int, int, int], list[list[Prompt]]] = defaultdict(list)
    for (views, cut, *_), group in groups.items():
        group.sort(key=lambda prompt: len(prompt.ids))
        most = room.rows_of_one(cut, own[views, cut])
        for start in range(0, len(group), most):
            piece = group[start : start + most]
            alike[views, cut, len(piece)].append(piece)
    for views, cut, each in sorted(alike, reverse=True):
        pieces = sorted(alike[views, cut, each], key=lambda piece: -len(piece[-1].ids))
        together = room.images(each, cut, own[views, cut])
        for start in range(0, len(pieces), together):
            yield pieces[start : start + together]


def longest_prompt(model: Any) -> int:
    """Tokens of the benchmark's longest prompts and their answers: two images and some hundred words."""
    return 2 * int(model.config.image_seq_length) + 256


def fitting_batch(model: Any) -> int:
    """How many prompts should fit together.

    A row is taken for the longest of the benchmark's (``longest_prompt``). On a CPU, where rows gain little
    by company: 2 to 16 of them in an eighth of the weights' memory (128 MiB at least). On a GPU: what half of
    its free memory holds. A guess that is too large is halved when memory runs out.
    """
    import torch

    text = model.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = heads * (text.hidden_size // text.num_attention_heads)
    row = 2 * text.num_hidden_layers * width * longest_prompt(model) * model.dtype.itemsize
    if model.device.type != "cuda":
        room = max(128 << 20, sum(weights.nbytes for weights in model.parameters()) // 8)
        return int(min(16, max(2, room // row)))
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(min(256, max(1, free // 2 // (2 * row))))
