"""What a model's tower makes of one image: computed once, joined for every prompt that shows it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from viscot_core.families.inputs import sent


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """One image's part of a tower's output.

    Attributes:
        kind: the class of that output.
        listed: whether it gives images one by one, and not as one tensor of all.
        pooled: what takes the image's slots, ``[tokens, hidden]`` or ``[tiles, tokens, hidden]``.
        deepstack: what is added to the first text layers, a tensor like ``pooled`` each (Qwen3-VL).
        grid: ``[1, 3]``, where the model counts positions by it.
    """

    kind: type[Any]
    listed: bool
    pooled: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()
    grid: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Slots that it takes in a prompt."""
        return self.pooled.shape[:-1].numel()

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.pooled.nbytes + sum(layer.nbytes for layer in self.deepstack)


def image_pixels(image_processor: Any, image: Image.Image) -> dict[str, Any]:
    """What the model reads of one image, on the CPU.

    Raises:
        ValueError: the processor does not take such an image; says why.
    """
    return dict(image_processor(images=[[image]], return_tensors="pt"))


def encode_image(model: Any, pixels: dict[str, Any]) -> ImageFeatures:
    """Features of one image, of which ``pixels`` were made, by the model's own ``get_image_features``."""
    takes = inspect.signature(model.get_image_features).parameters
    inputs = {
        name: sent(value, model.device).to(model.dtype if value.is_floating_point() else value.dtype)
        for name, value in pixels.items()
        if name in takes and isinstance(value, torch.Tensor)
    }
    out = model.get_image_features(**inputs, return_dict=True)
    # Clones: a view would keep what the tower computed beside it in memory.
    deepstack = getattr(out, "deepstack_features", None) or ()
    return ImageFeatures(
        type(out),
        not isinstance(out.pooler_output, torch.Tensor),
        _joined(out.pooler_output).clone(),
        tuple(_joined(layer).clone() for layer in deepstack),
        pixels.get("image_grid_thw"),
    )


def joined_features(features: Sequence[ImageFeatures]) -> Any:
    """Several images' features as the tower would have given them together, in reading order."""
    first = features[0]
    pooled = tuple(each.pooled for each in features)
    out: dict[str, Any] = {"pooler_output": pooled if first.listed else torch.cat(pooled)}
    if first.deepstack:
        layers = zip(*(each.deepstack for each in features), strict=True)
        out["deepstack_features"] = [list(layer) for layer in layers]
    return first.kind(**out)


def _joined(pieces: Any) -> torch.Tensor:
    """One image's features as the tower shapes them (SmolVLM before transformers 5.20 counts its tiles).

    Some give them in one piece and some in a list of one, ``[tokens, hidden]``.
    """
    if isinstance(pieces, torch.Tensor):
        return pieces
    return torch.cat([piece.flatten(0, -2) for piece in pieces])
