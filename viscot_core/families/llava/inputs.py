"""Embeddings with the features of images in place: of prompts, and of training batches without an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaModel

from viscot_core.families.features import AHEAD, FeatureCache
from viscot_core.families.inputs import Prompt, Suffix, positions_after, sent
from viscot_core.families.llava.pixels import preprocess
from viscot_core.families.llava.processor import ChatProcessor
from viscot_core.hardware import cores
from viscot_core.images.view import View

MOST_THREADS = 16
"""Threads that make pixels, where the machine has as many cores."""

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


class LlavaInputs:
    """Makes a model's inputs; ``features`` keeps what was computed of images."""

    embeds = True

    def __init__(self, model: LlavaForConditionalGeneration, processor: ChatProcessor) -> None:
        self._model = model
        self._processor = processor
        # On a CPU the threads would take the cores from the model.
        ahead = AHEAD if model.device.type != "cpu" else 0
        # Pillow lets go of the interpreter while it resizes: images are prepared side by side.
        threads = min(MOST_THREADS, cores())
        self.features: FeatureCache[NDArray[np.float32], torch.Tensor] = FeatureCache(
            self._pixels, self._encode, threads=threads, ahead=ahead
        )

    def batch(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """``inputs_embeds [rows, n, hidden]`` and ``attention_mask [rows, n]``, left-padded."""
        embeddings, real = self._embed([p.rendered.ids for p in prompts], [p.images for p in prompts])
        return {"inputs_embeds": embeddings, "attention_mask": sent(real.long(), embeddings.device)}

    def _embed(
        self, ids: Sequence[Sequence[int]], images: Sequence[Sequence[View]], *, left: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings ``[rows, n, hidden]`` padded on one side; which are no padding, on the CPU."""
        longest = max(map(len, ids))
        padded = np.full((len(ids), longest), self._processor.pad_id, dtype=np.int64)
        real = np.zeros(padded.shape, dtype=bool)
        for row, one in enumerate(ids):
            start = longest - len(one) if left else 0
            padded[row, start : start + len(one)] = one
            real[row, start : start + len(one)] = True
        table = self._model.get_input_embeddings()
        embeddings = table(sent(torch.from_numpy(padded), table.weight.device))
        shown = [view for row in images for view in row]
        if shown:
            # The slots go through rows in order; features are joined in that order. They are looked for here,
            # not on the device, which would have to be waited for.
            slots = torch.from_numpy(np.flatnonzero(padded == self._processor.tokens.image_id))
            features = torch.cat(self.features.features(shown)).to(embeddings.device, embeddings.dtype)
            embeddings.flatten(0, 1)[sent(slots, embeddings.device)] = features
        return embeddings, torch.from_numpy(real)

    def image_ends(self, prompt: Prompt) -> list[int]:
        """Tokens up to the end of each image's, in reading order."""
        tokens, ids, ends = self._processor.tokens, prompt.rendered.ids, [0]
        for _ in prompt.images:
            ends.append(ids.index(tokens.image_id, ends[-1]) + tokens.image_tokens)
        return ends[1:]

    def prefix(self, prompts: Sequence[Prompt], prefix_len: int) -> dict[str, torch.Tensor]:
        """``inputs_embeds [rows, prefix_len, hidden]``; all are of one length."""
        ids = [prompt.rendered.ids[:prefix_len] for prompt in prompts]
        return {"inputs_embeds": self._embed(ids, [prompt.images[:1] for prompt in prompts])[0]}

    def suffix(self, prompts: Sequence[Prompt], read: Sequence[int], *, left: bool = True) -> Suffix:
        """Embeddings after the first ``read`` images of each prompt; positions go on from their end."""
        starts = [self.image_ends(prompt)[count - 1] for prompt, count in zip(prompts, read, strict=True)]
        own = [prompt.rendered.ids[start:] for prompt, start in zip(prompts, starts, strict=True)]
        later = [prompt.images[count:] for prompt, count in zip(prompts, read, strict=True)]
        embeddings, real = self._embed(own, later, left=left)
        positions, device = positions_after(starts, real), embeddings.device
        return Suffix({"inputs_embeds": embeddings}, sent(real, device), sent(positions, device))

    def next(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The embedding of one more token a row, ``ids [rows]``."""
        return {"inputs_embeds": self._model.get_input_embeddings()(ids[:, None])}

    @property
    def encoded(self) -> int:
        """How many images were encoded so far."""
        return self.features.encoded

    def prefetch(self, views: Iterable[View]) -> None:
        """Begin with the pixels of images that will be encoded next, while the device does something else."""
        self.features.prefetch(views)

    def clear(self) -> None:
        """Forget features: the weights have changed."""
        self.features.clear()

    def _pixels(self, view: View) -> NDArray[np.float32]:
        return preprocess(view.image, self._processor.image_side)

    def _encode(self, ready: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        tower = self._model.model.vision_tower
        on_gpu = tower.device.type == "cuda"
        pixels = torch.empty((len(ready), *ready[0].shape), dtype=torch.float32, pin_memory=on_gpu)
        torch.stack([torch.from_numpy(one) for one in ready], out=pixels)
        pixels = pixels.to(tower.device, non_blocking=on_gpu)
        # Clones: a view would keep the whole batch in memory for as long as one image is cached.
        return [f.clone() for f in encode(self._model, pixels.to(tower.dtype))]


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
    # hidden_states has one more entry than there are layers (0 is what goes into layer 0), so -2 is what the
    # last layer but one gives: the first `count - 1` layers run.
    for block in tower.encoder.layers[: layer if layer >= 0 else count + 1 + layer]:
        hidden = block(hidden, None)
    if config.vision_feature_select_strategy == "default":
        # Without the class token: patches only.
        hidden = hidden[:, 1:]
    projected: torch.Tensor = model.model.multi_modal_projector(hidden)
    return projected


# -- training batches without an image, on any of several processes -----------------------------------------


class TextOnlyLlavaModel(LlavaModel):
    """transformers' ``LlavaModel`` whose training batches may lack images, on any of several processes.

    Where one rank's batch has no image, its tower and projector would get no gradient and take no part in the
    collectives of DDP and ZeRO: the job hangs or dies. So such a batch is shown one black image, of whose
    features an empty slice is joined to the embeddings: outputs and gradients are exactly those without it
    (the gradient of an empty slice is 0). It must sit inside ``LlavaModel.forward``, between embedding and
    language model: under ZeRO-3 the order of the modules' calls is the order in which weights are gathered.
    """

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
