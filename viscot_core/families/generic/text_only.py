"""Training batches without an image, on any of several processes, for any model that takes encoded images.

Where one rank's batch has no image, its tower and projector would get no gradient and take no part in the
collectives of DDP and ZeRO: the job hangs or dies. So such a batch is shown one black image, of whose
features an empty slice is joined to the embeddings: outputs and gradients are exactly those without it (the
gradient of an empty slice is 0). It happens inside the model's own forward, between embedding and language
model: under ZeRO-3 the order of the modules' calls is the order in which weights are gathered.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch


def seeing_always(model: Any, black: Mapping[str, torch.Tensor]) -> None:
    """Let ``model`` (below its head) run its tower on ``black`` where a training batch has no image."""
    kind = type(model)
    takes = inspect.signature(model.get_image_features).parameters
    shown = {name: value for name, value in black.items() if name in takes}

    def forward(self: Any, input_ids: Any = None, **rest: Any) -> Any:
        seen = rest.get("pixel_values") is not None or rest.get("inputs_embeds") is not None
        if input_ids is None or seen or not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, input_ids=input_ids, **rest)
        rest.pop("inputs_embeds", None)
        embeds = self.get_input_embeddings()(input_ids)
        features = _features(self, shown, embeds)
        # [rows * tokens + 0, hidden]: nothing of the features, but they are part of the graph.
        joined = torch.cat([embeds.flatten(0, 1), *(piece[:0].to(embeds.dtype) for piece in features)])
        return kind.forward(self, inputs_embeds=joined.view_as(embeds), **rest)

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})


def _features(model: Any, black: Mapping[str, torch.Tensor], like: torch.Tensor) -> list[torch.Tensor]:
    """``[tokens, hidden]`` of everything that the tower and the projector give to the language model."""
    moved = {
        name: value.to(like.device, like.dtype) if value.is_floating_point() else value.to(like.device)
        for name, value in black.items()
    }
    out = model.get_image_features(**moved, return_dict=True)
    pieces = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
    flat = [one for piece in pieces for one in (piece if isinstance(piece, list | tuple) else [piece])]
    return [one.flatten(0, -2) for one in flat]
