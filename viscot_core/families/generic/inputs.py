"""A model's inputs as its own processor makes them, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from viscot_core.families.base import Prompt
from viscot_core.families.generic.processor import GenericProcessor

if TYPE_CHECKING:
    import torch


class GenericInputs:
    """Nothing is kept between batches."""

    def __init__(self, model: Any, processor: GenericProcessor) -> None:
        self._model = model
        self._processor = processor

    def batch(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """``input_ids [rows, n]``, ``attention_mask`` and the images' tensors, on the model's device."""
        import torch

        # M-RoPE models keep the position offset of their last prompt.
        if hasattr(self._model.model, "rope_deltas"):
            self._model.model.rope_deltas = None
        out = self._processor.batch(
            [prompt.messages for prompt in prompts],
            [[view.image for view in prompt.images] for prompt in prompts],
        )
        device, dtype = self._model.device, self._model.dtype
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in out.items()
            if isinstance(value, torch.Tensor)
        }

    def clear(self) -> None:
        """Nothing depends on the weights."""
