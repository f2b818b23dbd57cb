"""The vision tower and the projector, without the layers whose output nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
