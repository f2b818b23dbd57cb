"""What a vLLM engine is like, known before one is started (and before anything heavy is imported)."""

from __future__ import annotations

from viscot_core.engines.base import Traits

TOGETHER = 64
"""Prompts in work at the same time where nothing else is said (``--batch-size auto``)."""


def traits(together: int, *, deterministic: bool = True) -> Traits:
    """Asked by ``together`` at once (0: `TOGETHER`): a question that is answered makes room for the next."""
    return Traits(
        parallel=together or TOGETHER,
        shares_images=True,
        deterministic=deterministic,
        logprobs=True,
        samples=True,
    )
