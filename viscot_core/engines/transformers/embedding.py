"""Prompts of different lengths as one batch of embeddings, images in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from viscot_core.engines.transformers.features import FeatureCache
from viscot_core.families.llava.chat import ChatTokenizer
from viscot_core.images.view import View

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


class Embedder:
    """Makes a model's input; images' features come from ``vision``."""

    def __init__(
        self, model: LlavaForConditionalGeneration, tokens: ChatTokenizer, vision: FeatureCache
    ) -> None:
        self._model = model
        self._tokens = tokens
        self._vision = vision

    def embed(
        self, ids: Sequence[Sequence[int]], views: Sequence[Sequence[View]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded embeddings ``[rows, n, hidden]``, and which are no padding ``[rows, n]``."""
        longest = max(map(len, ids))
        padded = torch.full((len(ids), longest), self._tokens.pad_id, dtype=torch.long)
        real = torch.zeros_like(padded, dtype=torch.bool)
        for row, one in enumerate(ids):
            padded[row, longest - len(one) :] = torch.tensor(one)
            real[row, longest - len(one) :] = True
        table = self._model.get_input_embeddings()
        padded = padded.to(table.weight.device)
        embeddings = table(padded)
        shown = [view for row in views for view in row]
        if shown:
            features = torch.cat(self._vision.features(shown)).to(embeddings.device, embeddings.dtype)
            embeddings[padded == self._tokens.image_id] = features
        return embeddings, real.to(embeddings.device)
