"""How much a model had to compute for its answers, and how long this device takes for that at best."""

from __future__ import annotations

from collections.abc import Sequence

from viscot_core.engines.transformers.decode_state import Decoding
from viscot_core.families.limits import decode_flop, llm_flop, projector_flop, tower_flop
from viscot_core.families.shapes import ModelShape
from viscot_core.gpus import peak_tflops


class Work:
    """Counts FLOP; ``shape`` None: a model whose shape is not known, of which nothing is counted.

    Padding is not counted, nor tokens that a row says after its end: what is counted is what was needed.
    """

    def __init__(self, shape: ModelShape | None) -> None:
        self._shape = shape
        self.flop = 0.0

    def clear(self) -> None:
        """Start anew."""
        self.flop = 0.0

    def add_images(self, images: int) -> None:
        """Images that were encoded."""
        if self._shape is not None:
            self.flop += tower_flop(self._shape.tower, images) + projector_flop(self._shape, images)

    def add_prefixes(self, prefixes: int, tokens: int) -> None:
        """Prefixes of so many tokens each that were read; nothing is said after them."""
        if self._shape is not None:
            self.flop += prefixes * llm_flop(self._shape.llm, tokens, heads=0)

    def add_prompts(self, prompts: Sequence[Decoding], starts: Sequence[int] = ()) -> None:
        """Prompts that were read from the token ``starts`` on (else from their first), and answered."""
        if self._shape is None:
            return
        for prompt, start in zip(prompts, starts or [0] * len(prompts), strict=True):
            count, said = len(prompt.ids), prompt.state.said
            self.flop += llm_flop(self._shape.llm, count - start, start)
            # The first token comes out of the reading.
            self.flop += decode_flop(self._shape.llm, max(0, said - 1), count)

    def least_seconds(self, gpu: str) -> float | None:
        """All of it at the peak of the GPU of that name; None where one of both is not known."""
        peak = peak_tflops(gpu) if gpu else None
        return self.flop / (peak * 1e12) if peak and self.flop else None
