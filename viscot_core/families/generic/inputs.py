"""A model's inputs: ids as its processor expands them, and features of images that are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from viscot_core.boxes.geometry import Size
from viscot_core.families.features import FeatureCache
from viscot_core.families.generic.backbones import Backbone
from viscot_core.families.generic.features import (
    ImageFeatures,
    encode_image,
    image_pixels,
    joined_features,
)
from viscot_core.families.generic.processor import GenericProcessor
from viscot_core.families.inputs import Prompt, Suffix, positions_after, sent
from viscot_core.images.view import View

AHEAD = 8
"""Images whose pixels wait for their turn at most: one of many tiles may take 100 MB."""


class GenericInputs:
    """Makes a model's inputs; ``features`` keeps what was computed of images, where that may be kept."""

    embeds = False  # ids and features: the model itself puts images, and what deeper layers add, in place

    def __init__(self, model: Any, processor: GenericProcessor, backbone: Backbone) -> None:
        self._model = model
        self._processor = processor
        self._backbone = backbone
        # One thread, as processors are not made for several; none on a CPU, where it would take cores from
        # the model. One image at a time, as they differ in size.
        threads = int(model.device.type != "cpu")
        self.features: FeatureCache[dict[str, Any], ImageFeatures] = FeatureCache(
            self._pixels, self._encode, threads=threads, ahead=AHEAD, batch=1
        )
        self._tokens: dict[Size, int] = {}

    def batch(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Left-padded ``input_ids [rows, n]``, ``attention_mask``, and the images' features or pixels."""
        self._forget_positions()
        if not self._backbone.keeps_features:
            return self._by_processor(prompts)
        inputs = self._padded([prompt.rendered.ids for prompt in prompts])
        return {**inputs, **self._shown([view for prompt in prompts for view in prompt.images])}

    def image_ends(self, prompt: Prompt) -> list[int]:
        """Tokens up to the end of each image's, in reading order."""
        # An image's slots need not stand side by side: tiles have marks between them.
        slots = np.flatnonzero(np.asarray(prompt.rendered.ids) == self._processor.image_id)
        return [int(slots[count - 1]) + 1 for count in accumulate(self._tokens_of(prompt.images))]

    def _tokens_of(self, views: Sequence[View]) -> list[int]:
        """How many tokens each image takes."""
        # It depends on its size alone: asked of the features, each image of a batch that is larger than
        # their cache would be encoded whenever its prompt is measured.
        unknown = {view.image.size: view for view in views if view.image.size not in self._tokens}
        for size, each in zip(unknown, self.features.features(list(unknown.values())), strict=True):
            self._tokens[size] = each.tokens
        return [self._tokens[view.image.size] for view in views]

    def prefix(self, prompts: Sequence[Prompt], prefix_len: int) -> dict[str, Any]:
        """The first ``prefix_len`` ids of prompts about an image each; no padding."""
        self._forget_positions()
        shown = [prompt.images[0] for prompt in prompts]
        inputs = {**self._padded([p.rendered.ids[:prefix_len] for p in prompts]), **self._shown(shown)}
        positions = self._positions(inputs)
        return {
            "input_ids": inputs["input_ids"],
            "mm_encoder_outputs": inputs["mm_encoder_outputs"],
            **({} if positions is None else {"position_ids": positions}),
        }

    def suffix(self, prompts: Sequence[Prompt], read: Sequence[int], *, left: bool = True) -> Suffix:
        """The ids after the first ``read`` images of each prompt, left-padded, with the others' features."""
        self._forget_positions()
        assert left, "grids of images are counted in left-padded rows"
        starts = [self.image_ends(prompt)[count - 1] for prompt, count in zip(prompts, read, strict=True)]
        own = self._padded([p.rendered.ids[start:] for p, start in zip(prompts, starts, strict=True)])
        real = own["attention_mask"].bool()
        arguments: dict[str, Any] = {"input_ids": own["input_ids"]}
        later = [view for p, count in zip(prompts, read, strict=True) for view in p.images[count:]]
        if later:
            arguments["mm_encoder_outputs"] = self._shown(later)["mm_encoder_outputs"]
        if not self._backbone.grid_positions:
            return Suffix(arguments, real, positions_after(starts, real))
        # Positions after an image follow its grid, so they are counted over whole prompts and cut.
        whole = self._padded([prompt.rendered.ids for prompt in prompts])
        shown = self._shown([view for prompt in prompts for view in prompt.images])
        positions = self._positions({**whole, **shown})
        return Suffix(arguments, real, positions[..., -real.shape[1] :])

    def next(self, ids: torch.Tensor) -> dict[str, Any]:
        """One more token for each row, ``ids [rows]``."""
        return {"input_ids": ids[:, None]}

    @property
    def encoded(self) -> int:
        """How many images were encoded so far."""
        return self.features.encoded

    def prefetch(self, views: Iterable[View]) -> None:
        """Begin with the pixels of images that will be encoded next, where features are kept."""
        if self._backbone.keeps_features:
            self.features.prefetch(views)

    def clear(self) -> None:
        """Forget features: the weights have changed."""
        self.features.clear()

    def _pixels(self, view: View) -> dict[str, Any]:
        return image_pixels(self._processor.hf.image_processor, view.image)

    def _encode(self, ready: Sequence[dict[str, Any]]) -> list[ImageFeatures]:
        return [encode_image(self._model, pixels) for pixels in ready]

    def _padded(self, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """``input_ids``, ``attention_mask`` and, where the model reads them, the tokens' kinds."""
        longest = max(map(len, ids))
        padded = torch.full((len(ids), longest), self._processor.pad_id, dtype=torch.long)
        mask = torch.zeros_like(padded)
        for row, one in enumerate(ids):
            padded[row, longest - len(one) :] = torch.tensor(one)
            mask[row, longest - len(one) :] = 1
        out = {"input_ids": padded, "attention_mask": mask}
        if (name := self._processor.kinds_name) is not None:
            # Padding has the kind of text, also where its id stands for something else.
            out[name] = torch.tensor(self._processor.hf.create_mm_token_type_ids(padded.tolist())) * mask
        return {key: sent(value, self._model.device) for key, value in out.items()}

    def _shown(self, views: Sequence[View]) -> dict[str, Any]:
        """The images' features, and the grids by which the model counts positions."""
        if not views:
            return {}
        features = self.features.features(views)
        out: dict[str, Any] = {"mm_encoder_outputs": {"image": joined_features(features)}}
        if features[0].grid is not None:
            grids = [each.grid for each in features if each.grid is not None]
            out["image_grid_thw"] = sent(torch.cat(grids), self._model.device)
        return out

    def _positions(self, inputs: dict[str, Any]) -> Any:
        """``[3, rows, n]`` by the images' grids; None where the model counts tokens."""
        if not self._backbone.grid_positions:
            return None
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        return self._model.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})[0]

    def _by_processor(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Everything as the processor makes it, pixels included."""
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

    def _forget_positions(self) -> None:
        # M-RoPE models keep the position offset of their last prompt, and would add it to this one's.
        if hasattr(self._model.model, "rope_deltas"):
            self._model.model.rope_deltas = None
