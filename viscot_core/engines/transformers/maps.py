"""Where a prompt's last token looks: its attention to the image in one layer, plain or weighed by gradient.

After "MLLMs Know Where to Look" (Zhang et al., ICLR 2025, arXiv 2502.17422). Fused kernels give no weights,
and all weights of a prompt would take memory by the square of its length. So every layer runs its fused
kernel, and beside it the one layer that is read makes the weights of its last query alone, which are as many
as there are tokens. They come from the layer's own queries and keys, after positions were put in.

The gradient is that of the likeliest token's logarithm. Below the layer nothing is kept for it: gradients are
switched on where its weights are made, and only what follows from them remembers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch

from viscot_core.boxes.attention_map import AttentionOf
from viscot_core.engines.base import Generation
from viscot_core.engines.transformers.attention import shared_attention
from viscot_core.engines.transformers.decode_state import Decoding
from viscot_core.errors import EngineError
from viscot_core.families.base import Family, Processor

NAME = "viscot_read"
"""Under which the attention below is registered with transformers."""


ANY_SIZE = (64, 64)
"""Of an image, to learn whether the places of image tokens are known at all."""

Run = Callable[..., None]
"""Says one token after each of some prompts, given as logits processors what is to see the scores before."""


class AttentionMaps:
    """What prompts about one image attend to, for a model and its family."""

    def __init__(self, model: Any, processor: Processor, family: Family) -> None:
        self._model = model
        self._image_id = processor.image_id
        self._depth = family.attention_depth
        self._grid = lru_cache(256)(partial(family.token_grid, processor))
        self.known = self._grid(ANY_SIZE) is not None
        """Whether it can be told at all."""
        self.layers = whole_layers(model) if self.known else ()

    def checked(self, prompt: Decoding) -> Decoding | Generation:
        """The prompt, or why it cannot be told where it looks.

        Raises:
            UsageError: it asks for a layer that the model does not have.
        """
        if prompt.state.request.attention is not None:
            layer_of(self._model, prompt.state.request.attention, self._depth)
        images, places = prompt.prompt.images, self._places(prompt)
        grid = self._grid(images[0].image.size) if len(images) == 1 else None
        if grid is not None and len(places) == grid.tokens:
            return prompt
        reason = "where this prompt's image tokens lie on one image is not known"
        return Generation("", 0, False, f"{reason}, so it cannot be told where the model looks")

    def read(self, prompts: Sequence[Decoding], most: int, run: Run) -> None:
        """Tell each of the checked prompts where it looks; ``run`` reads up to ``most`` of them together.

        No image's prefix is shared: the layer must see all of the prompt's keys.
        """
        alike: dict[AttentionOf, list[Decoding]] = defaultdict(list)
        for prompt in sorted(prompts, key=lambda prompt: len(prompt.ids), reverse=True):
            if prompt.state.request.attention is not None:
                alike[prompt.state.request.attention].append(prompt)
        for asked, some in alike.items():
            layer = layer_of(self._model, asked, self._depth)
            for start in range(0, len(some), most):
                batch = some[start : start + most]
                with reading(self._model, layer, asked.kind == "gradient") as reader:
                    run(batch, reader.weigh)
                longest = max(len(prompt.ids) for prompt in batch)
                for row, prompt in enumerate(batch):
                    # Rows are padded on the left.
                    shift = longest - len(prompt.ids)
                    values = reader.values(row, [shift + place for place in self._places(prompt)])
                    grid = self._grid(prompt.prompt.images[0].image.size)
                    assert grid is not None, "the prompt was checked"
                    prompt.state.on_attention(grid.map_of(values))

    def _places(self, prompt: Decoding) -> list[int]:
        """Where the tokens of images stand in a prompt."""
        return [place for place, token in enumerate(prompt.ids) if token == self._image_id]


@dataclass
class AttentionReader:
    """What one batch of prompts attends to in ``layer``: ``weights [rows, heads, tokens]``, float32."""

    layer: int
    by_gradient: bool
    weights: torch.Tensor | None = field(default=None)

    def weigh(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A logits processor, ``[rows, vocabulary]``: weighs by the gradient of the likeliest token."""
        if self.by_gradient and self.weights is not None:
            likeliest = scores.log_softmax(-1).amax(-1).sum()  # rows do not depend on each other
            (gradient,) = torch.autograd.grad(likeliest, self.weights)
            self.weights = self.weights * gradient.relu()
        torch.set_grad_enabled(False)
        return scores.detach()

    def values(self, row: int, places: Sequence[int]) -> list[float]:
        """The mean of all heads at these places of a row.

        Raises:
            EngineError: the model did not use the attention that was put in.
        """
        if self.weights is None:
            raise EngineError(
                "This model's layers do not show their attention; leave out --strategy attention."
            )
        means: list[float] = self.weights[row].detach().mean(0)[list(places)].tolist()
        return means

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Any, scaling: float
    ) -> torch.Tensor:
        """The last token's attention, kept; what it sees, ``[rows, heads, 1, dim]``.

        ``query [rows, heads, 1, dim]``; ``keys`` and ``values [rows, kv heads, tokens, dim]``; ``mask`` is
        None, boolean, or what is added, ``[rows, 1, 1, tokens]``.
        """
        groups = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = (query @ keys.transpose(2, 3)).float() * scaling
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        weights = scores.softmax(-1)[:, :, 0]
        if self.by_gradient:
            torch.set_grad_enabled(True)
            weights = weights.detach().requires_grad_()
        self.weights = weights
        return weights[:, :, None].to(values.dtype) @ values


_READER: ContextVar[AttentionReader] = ContextVar("viscot_attention_reader")


@contextmanager
def reading(model: Any, layer: int, by_gradient: bool) -> Iterator[AttentionReader]:
    """While this is open, a prompt that ``model`` reads tells the reader where its last token looks."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    reader = AttentionReader(layer, by_gradient)
    token = _READER.set(reader)
    try:
        # Inference mode's tensors have no gradient; `no_grad` also ends what `attend` begins.
        with torch.no_grad(), shared_attention(model.get_decoder().config, NAME):
            yield reader
    finally:
        _READER.reset(token)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' fused attention, and in the reader's layer the last token's by hand.

    ``query [rows, heads, tokens, dim]``; returns ``[rows, tokens, heads, dim]``.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
    reader = _READER.get()
    if module.layer_idx != reader.layer:
        return out, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    last = None if attention_mask is None else attention_mask[:, :, -1:]
    seen = reader.attend(query[:, :, -1:], key, value, last, scale)
    return torch.cat([out[:, :-1], seen.transpose(1, 2)], 1), None


def whole_layers(model: Any) -> tuple[int, ...]:
    """The text layers in which a token attends to all before it; others show an image in part, or not."""
    text = model.get_decoder().config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * int(text.num_hidden_layers)
    return tuple(number for number, kind in enumerate(kinds) if kind == "full_attention")


def layer_of(model: Any, asked: AttentionOf, depth: float) -> int:
    """The number of the text layer to read: the one that is asked for, or the one nearest to ``depth``.

    Raises:
        UsageError: there is no such layer, or it does not see all tokens.
    """
    layers = whole_layers(model)
    asked.check(layers)
    if asked.layer is not None:
        return asked.layer
    wanted = int(depth * int(model.get_decoder().config.get_text_config().num_hidden_layers))
    return min(layers, key=lambda number: abs(number - wanted))
