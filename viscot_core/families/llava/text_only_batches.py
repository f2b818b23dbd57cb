"""Training batches without an image, on any of several processes.

Where one rank's batch has no image, its tower and projector would get no gradient and take no part in the
collectives of DDP and ZeRO: the job hangs or dies. So such a batch is shown one black image, of whose
features an empty slice is joined to the embeddings: outputs and gradients are exactly those without it (the
gradient of an empty slice is 0). It must sit inside ``LlavaModel.forward``, between embedding and language
model: under ZeRO-3 the order of the modules' calls is the order in which weights are gathered.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlavaModel


class TextOnlyLlavaModel(LlavaModel):
    """transformers' ``LlavaModel`` whose training batches may lack images."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **rest: Any,
    ) -> Any:
        """As ``LlavaModel.forward``; the outputs of a batch without images are unchanged.

        ``input_ids int64[B, T]``, ``pixel_values float[images, 3, side, side]`` or None; the features of the
        black image are ``[1, patches, width]``, of which ``[0, width]`` are used.
        """
        if pixel_values is None and inputs_embeds is None and self.training and torch.is_grad_enabled():
            embeds = self.get_input_embeddings()(input_ids)
            features = self.get_image_features(pixel_values=self._black_image(embeds)).pooler_output[0]
            nothing = features.flatten(0, -2)[:0].to(embeds.dtype)
            inputs_embeds = torch.cat([embeds.flatten(0, 1), nothing]).view_as(embeds)
            return super().forward(inputs_embeds=inputs_embeds, **rest)
        return super().forward(
            input_ids=input_ids, pixel_values=pixel_values, inputs_embeds=inputs_embeds, **rest
        )

    def _black_image(self, like: torch.Tensor) -> torch.Tensor:
        side = self.config.vision_config.image_size
        dtype = next(self.vision_tower.parameters()).dtype
        return torch.zeros(1, 3, side, side, device=like.device, dtype=dtype)
