"""Layers of a model through ``torch.compile``, as training runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Backend = str | Callable[..., Any]
"""Of ``torch.compile``: a name, or what gets each program and its examples."""


def compile_layers(layers: Iterable[Any], backend: Backend = "inductor") -> None:
    """``torch.compile`` of each layer's own ``forward``, with lengths left open.

    Layers of one kind share their program, and so do batches of all lengths, numbers of samples and of
    images: a step of 32 layers compiles one layer. What differs in kind is compiled for itself: a layer that
    is recomputed in backward (that choice is part of the program), one whose input needs no gradient, a
    single image or row beside several.

    Around a layer nothing is compiled: there transformers' hooks collect hidden states, and what they read
    cannot be compiled. (They also lie on the attention of a tower whose hidden states are asked for: its
    layers are three programs.)
    """
    import torch

    # The layers of all parts count together, against a limit of eight by default.
    torch._dynamo.config.recompile_limit = 64
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)
