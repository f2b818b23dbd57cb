"""Features of images: encoded once per process, without the vision layers whose output nobody reads."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from viscot_core.families.llava.pixels import preprocess
from viscot_core.images.view import View

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration


def encode(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """``[n, 3, side, side]`` -> projected features ``[n, tokens, hidden]``.

    LLaVA reads the hidden state before the last layer (``vision_feature_layer`` -2), so a CLIP tower's layers
    after it are not run; the result is bit-identical to running them all. Nothing of the model is changed: a
    model in training can be asked too.
    """
    import torch
    from transformers import CLIPVisionModel

    config, tower = model.config, model.model.vision_tower
    layer = config.vision_feature_layer
    if not isinstance(tower, CLIPVisionModel) or not isinstance(layer, int):
        return torch.stack(
            list(model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output)
        )
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    count = len(tower.encoder.layers)
    for block in tower.encoder.layers[: layer if layer >= 0 else count + 1 + layer]:
        hidden = block(hidden, None)
    if config.vision_feature_select_strategy == "default":
        hidden = hidden[:, 1:]
    projected: torch.Tensor = model.model.multi_modal_projector(hidden)
    return projected


class FeatureCache:
    """Projected features by ``View.key``, the least recently used dropped beyond ``max_bytes``.

    ``encoded`` and ``reused`` count images, for the tests and the benchmark's report.
    """

    def __init__(
        self, model: LlavaForConditionalGeneration, side: int, *, max_bytes: int = 512 << 20, batch: int = 16
    ) -> None:
        self._model = model
        self._side = side
        self._max_bytes = max_bytes
        self._batch = batch
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="viscot-pixels")
        self.encoded = 0
        self.reused = 0

    def features(self, views: Sequence[View]) -> list[torch.Tensor]:
        """``[tokens, hidden]`` for each view; views of one key are encoded once."""
        wanted = {view.key: view for view in views}
        found = {key: self._kept[key] for key in wanted if key in self._kept}
        self.reused += len(views) - len(wanted) + len(found)
        missing = [view for key, view in wanted.items() if key not in found]
        for start in range(0, len(missing), self._batch):
            group = missing[start : start + self._batch]
            for view, feature in zip(group, self._encode(group), strict=True):
                found[view.key] = feature
                self._keep(view.key, feature)
        for key in found:
            if key in self._kept:
                self._kept.move_to_end(key)
        return [found[view.key] for view in views]

    def clear(self) -> None:
        """Drop all that is kept."""
        self._kept.clear()
        self._bytes = 0

    def _encode(self, views: Sequence[View]) -> list[torch.Tensor]:
        import numpy as np
        import torch

        tower = self._model.model.vision_tower
        # Pillow lets go of the interpreter while it resizes: images of a batch are prepared side by side.
        ready = self._threads.map(lambda view: preprocess(view.image, self._side), views)
        pixels = torch.from_numpy(np.stack(list(ready)))
        self.encoded += len(views)
        return [f.clone() for f in encode(self._model, pixels.to(tower.device, tower.dtype))]

    def _keep(self, key: str, feature: torch.Tensor) -> None:
        self._kept[key] = feature
        self._bytes += feature.nbytes
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
