"""What runs together: how many prompts fit, and which of them share an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from viscot_core.engines.transformers.decode_state import Decoding

MOST_ROWS = 64
"""More prompts than this gain nothing by running together on a CPU."""
MOST_ROWS_GPU = 256
"""The same for a GPU, or `RUN_ROWS` times the prompts that fit with an image each: a decoding step reads the
weights once for all of them."""
RUN_ROWS = 4
"""A run hands over so many times those prompts (``runs.loop``): fewer rows would cut them into a large batch
and a small one, which takes as many steps."""


@dataclass(frozen=True, slots=True)
class BatchBudget:
    """How much runs together: ``rows`` prompts, or, with ``tokens``, as many as that many keys hold.

    ``most`` rows run together however short they are.
    """

    rows: int
    tokens: int | None = None
    most: int = MOST_ROWS

    def rows_of_one_image(self, prefix: int, own: int) -> int:
        """Prompts about one image, with ``prefix`` shared tokens and ``own`` tokens each."""
        if self.tokens is None:
            return self.rows
        # The prefix is held once for all rows of its image.
        return max(1, min(self.most, (self.tokens - prefix) // own))

    def images(self, each: int, prefix: int, own: int) -> int:
        """Images with ``each`` prompts."""
        if self.tokens is None:
            return max(1, self.rows // each)
        return max(1, min(self.most // each, self.tokens // (prefix + each * own)))


@dataclass(frozen=True, slots=True)
class Measured:
    """A prompt whose first ``prefix`` tokens others about its image have too; ``unread`` images come later.

    (Those that an earlier batch read are not among them: ``read`` tokens are kept, the prefix's included.)
    """

    one: Decoding
    prefix: int
    read: int
    unread: int


def by_image(prompts: Sequence[Measured], budget: BatchBudget) -> Iterator[list[list[Decoding]]]:
    """Batches: groups of prompts about one image, groups of one size together; the longest first.

    A group has the same words before the image too. Prompts that have to read different numbers of images
    differ in what they feed by those images' tokens, so they never share a batch; talks at different looks
    do, where all but the last look are kept.
    """
    groups: dict[tuple[int, int, str, tuple[int, ...]], list[Decoding]] = defaultdict(list)
    known: dict[tuple[int, int], int] = defaultdict(int)
    new: dict[tuple[int, int], int] = defaultdict(int)
    for measured in prompts:
        one, prefix, unread = measured.one, measured.prefix, measured.unread
        groups[unread, prefix, one.prompt.images[0].key, tuple(one.ids[:prefix])].append(one)
        # What is kept of a row and what it reads now are padded each on their own, with room for all that may
        # be said: keys are kept until the whole batch is over.
        known[unread, prefix] = max(known[unread, prefix], measured.read - prefix)
        new[unread, prefix] = max(new[unread, prefix], len(one.ids) - measured.read + one.state.limit)
    own = {key: known[key] + new[key] for key in new}
    alike: dict[tuple[int, int, int], list[list[Decoding]]] = defaultdict(list)
    # Groups of one size only share a batch: its rows are then images x each, a regular shape that attention
    # can fold.
    for (count, prefix, *_), group in groups.items():
        group.sort(key=lambda one: len(one.ids))
        most = budget.rows_of_one_image(prefix, own[count, prefix])
        for start in range(0, len(group), most):
            piece = group[start : start + most]
            alike[count, prefix, len(piece)].append(piece)
    # The largest first, as in the plain way: if memory does not suffice, it fails before work is done.
    for count, prefix, each in sorted(alike, reverse=True):
        pieces = sorted(alike[count, prefix, each], key=lambda piece: -len(piece[-1].ids))
        together = budget.images(each, prefix, own[count, prefix])
        for start in range(0, len(pieces), together):
            yield pieces[start : start + together]


def fitting_batch(model: Any, prompt_tokens: int) -> int:
    """How many prompts of so many tokens should fit together.

    On a CPU, where rows gain little by company: 2 to 16 of them in an eighth of the weights' memory (128 MiB
    at least). On a GPU half of the free memory is for keys and values in decoding, a quarter for what is kept
    of images (``prefix.KEPT_SHARE``), the rest for activations; a multiple of 8, the step of shapes
    (``static.py``). A guess that is too large is halved when memory runs out.
    """
    import torch

    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    # Bytes of keys and values of one prompt, all layers.
    row = 2 * text.num_hidden_layers * heads * dim * prompt_tokens * model.dtype.itemsize
    if model.device.type != "cuda":
        room = max(128 << 20, sum(weights.nbytes for weights in model.parameters()) // 8)
        return int(min(16, max(2, room // row)))
    free, _ = torch.cuda.mem_get_info(model.device)
    fitting = int(min(256, max(1, free * 0.52 // row)))
    return fitting // 8 * 8 if fitting >= 8 else fitting
