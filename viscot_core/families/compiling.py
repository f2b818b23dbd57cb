"""Layers of a model through ``torch.compile``, as training runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Backend = str | Callable[..., Any]
"""Of ``torch.compile``: a name, or what gets each program and its examples."""


def compile_layers(layers: Iterable[Any], backend: Backend = "inductor") -> None:
    """``torch.compile`` of each layer, with lengths left open; a copy of the model is not compiled.

    Layers of one kind share their program, and so do batches of all lengths, numbers of samples and of
    images: a step of 32 layers compiles one layer. What differs in kind is compiled for itself: a layer that
    is recomputed in backward (that choice is part of the program), one whose input needs no gradient, a
    single image or row beside several. A layer of a tower is three programs, as transformers' hooks that
    collect its hidden states and attention cannot be compiled; one that is recomputed runs as it is.
    """
    import torch

    # The layers of all parts count together, against a limit of eight by default.
    torch._dynamo.config.recompile_limit = 64
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
