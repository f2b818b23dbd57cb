"""Layers of a model through ``torch.compile``, as training runs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger(__name__)

Backend = str | Callable[..., Any]
"""Of ``torch.compile``: a name, or what gets each program and its examples."""


def can_compile(device: str) -> bool:
    """Whether ``torch.compile`` makes a small kernel for ``device`` here; a warning says why it does not.

    A compiler that is missing, a broken one and missing headers of Python are found so, before step 0.
    """
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2, device=device))
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise what they please; it is told
        why = str(error).strip().partition("\n")[0]
        log.warning(
            "torch.compile does not work here (%s), so layers are not compiled, steps take longer; it needs "
            "a C++ compiler (g++, or what CXX names; on a GPU gcc, or what CC names) and Python's headers.",
            why,
        )
        return False
    return True


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
