"""Reading prompts: keys and values of what is shared, and faster products of many rows on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from viscot_core.engines.transformers.attention import all_read, ends_when_read

MANY_ROWS = 1024
"""Rows from which on a product is worth the time that laying out its weights anew takes."""
ROWS_STEP = 256
"""oneDNN multiplies a multiple of so many rows: for each number of rows and shape of a layer it keeps half a
megabyte, and needs milliseconds to make it."""


class _Keys(DynamicCache):
    """What a forward pass over whole prompts gives to keep; it ends once the last layer has been here.

    (A KV cache that would read it again joins it to what was there before, which costs a copy more.)
    """

    kept: torch.Tensor | None = None
    filled = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's keys and values, ``[rows, kv heads, tokens, dim]``."""
        if self.kept is None:
            self.kept = key_states.new_empty(len(key_states), len(self.layers), 2, *key_states.shape[1:])
        if key_states.shape != self.kept[:, 0, 0].shape:
            raise ValueError(f"Layer {layer_idx} keeps keys of another shape than the first.")
        self.kept[:, layer_idx, 0] = key_states
        self.kept[:, layer_idx, 1] = value_states
        self.filled += 1
        if layer_idx == len(self.layers) - 1:
            all_read()
        return key_states, value_states


def keys_and_values(text: Any, arguments: dict[str, Any]) -> list[torch.Tensor]:
    """What the text model keeps of prompts that all are of one length, read from their first token.

    One tensor a row, ``[layers, 2, kv heads, tokens, dim]``, which shares no memory with the others.

    Raises:
        ValueError: a layer keeps something else than keys.
    """
    cache = _Keys(config=text.config.get_text_config())
    # No padding, so the model's own causal attention needs no mask.
    with ends_when_read():
        text(**arguments, past_key_values=cache, use_cache=True)
    if cache.kept is None or cache.filled != len(cache.layers):
        raise ValueError(f"{cache.filled} of the {len(cache.layers)} layers keep keys and values.")
    return [row.clone() for row in cache.kept]


@contextmanager
def fast_products(model: nn.Module) -> Iterator[None]:
    """Let the linear layers of a float32 model on a CPU use oneDNN for many rows, for a while.

    torch itself gives float32 to MKL, which on other CPUs than Intel's takes 1.1 to 1.25 times as long. The
    weights are laid out anew for each product, a thousandth of its work: nothing is kept, so they may change.
    """
    fitting = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear
        and layer.weight.dtype == torch.float32
        and layer.weight.is_cpu
        and "forward" not in vars(layer)  # they do already: a listener asks while it is told an answer
    ]
    # Without MKL (on ARM) torch has no other products to be faster than.
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        fitting = []
    for layer in fitting:
        layer.forward = partial(_product, layer)
    try:
        yield
    finally:
        for layer in fitting:
            del layer.forward


def _product(layer: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    """``[..., n] -> [..., m]``, as the layer does it."""
    count = rows.numel() // rows.shape[-1]
    if count < MANY_ROWS or rows.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(rows, layer.weight, layer.bias)
    ops, flat, many = torch.ops.mkldnn, rows.reshape(count, -1), count // ROWS_STEP * ROWS_STEP
    weight = ops._reorder_linear_weight(layer.weight, many)
    product: torch.Tensor = ops._linear_pointwise(flat[:many], weight, layer.bias, "none", [], "")
    if many < count:
        product = torch.cat([product, nn.functional.linear(flat[many:], layer.weight, layer.bias)])
    return product.view(*rows.shape[:-1], -1)
