"""Chains of a small data root: token weights and the auxiliary attention loss beside the cross-entropy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.data.encode import Batch, Sample, collate, encode
from viscot_core.data.scenes import Scene
from viscot_core.families.inputs import IGNORE
from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.families.llava.training import patches_along
from viscot_core.families.training import RowInputs
from viscot_core.processes import worker_pool
from viscot_core.train.objectives.base import StageRows, TrainStep
from viscot_core.train.objectives.sft import Sft, share_of, token_losses
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.recipe.tiny_specs import TokenWeights
from viscot_core.train.tiny.attention_loss import attention_loss, target_tensors, targets_of
from viscot_core.train.tiny.own_data import (
    PixelCache,
    bucketed_order,
    pixels_of,
    read_conversations,
    read_scenes,
)

PAD_MULTIPLE = 32
"""Rows are padded to a multiple of this many tokens, so that its kernels meet few shapes."""


FEW_ROWS = 20_000
"""Fewer rows are encoded by this process alone: four seconds."""


class Chains(Sft):
    """Cross-entropy, weighted where the recipe weights tokens, plus the fading auxiliary attention loss."""

    def open_rows(self) -> StageRows:
        run, stage = self.run, self.stage
        scenes = read_scenes(run.root / "scenes.jsonl") if stage.guide_attention else {}
        rows = read_conversations([run.root / name for name in stage.data_files])
        processor, grid = run.processor_for(stage), patches_along(run.model.config)
        assert isinstance(processor, ChatProcessor)
        pixels = pixels_of(run.recipe, run.root, run.images, processor.image_side)
        return ChainDataset(rows, pixels, processor, stage, scenes, grid)

    def loss_tokens(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if "weights" not in batch:
            return super().loss_tokens(batch)
        return (batch["weights"][:, 1:] * (batch["labels"][:, 1:] != IGNORE)).sum()

    def loss(
        self, model: Any, batch: dict[str, torch.Tensor], step: TrainStep
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        spec = self.stage.guide_attention
        aimed = spec is not None and len(batch["target_row"]) > 0
        out = self.forward(model, batch, output_attentions=aimed)
        losses = token_losses(self.text_logits(out), batch["labels"])
        if "weights" in batch:
            losses = losses * batch["weights"][:, 1:].flatten()
        loss = share_of(losses.sum(), step)
        if spec is None:
            return loss, {}
        auxiliary = torch.zeros_like(loss)  # a batch without targets: every process logs both parts
        if aimed:
            auxiliary = attention_loss(out.attentions, batch) / step.batches  # a mean of the batches' means
        fade = max(0.0, 1.0 - step.number / (spec.until * step.of))
        return loss + spec.weight * fade * auxiliary, {"loss_words": loss, "loss_guide": auxiliary}


def token_weights(sample: Sample, tokens: ChatTokenizer, weights: TokenWeights) -> list[float]:
    """Loss weight of each position: the decimals of box coordinates by place, digits elsewhere as answers."""
    out: list[float] = []
    place: int | None = None
    for label in sample.encoded.labels:
        if label == IGNORE:
            out.append(0.0)
            place = None
            continue
        piece = tokens.piece(label)
        weight = 1.0
        # "0." begins a coordinate; the digits that follow it are its decimals, all other digits are answers.
        if piece.endswith("0."):
            place = 0
        elif piece.isdigit():
            weight = weights.answer_digits if place is None else weights.decimals[min(place, 2)]
            place = None if place is None else place + 1
        else:
            place = None
        out.append(weight)
    return out


def _encoded(rows: Sequence[Conversation], processor: ChatProcessor, max_length: int) -> list[Sample]:
    """All rows as samples, by several processes where that saves more than it costs."""
    encode_some = partial(_encode_some, processor, max_length)
    workers = os.cpu_count() or 1
    if workers == 1 or len(rows) < FEW_ROWS:
        return encode_some(rows)
    with worker_pool(workers) as pool:
        parts = pool.map(encode_some, [rows[i : i + 512] for i in range(0, len(rows), 512)])
        return [sample for part in parts for sample in part]


def _encode_some(processor: ChatProcessor, max_length: int, rows: Sequence[Conversation]) -> list[Sample]:
    return [encode(row, processor, max_length=max_length) for row in rows]


class ChainDataset(Dataset[Sample]):
    """Rendered conversations; ``collate`` turns some of them into a batch."""

    def __init__(
        self,
        rows: Sequence[Conversation],
        pixels: PixelCache,
        processor: ChatProcessor,
        stage: StageSpec,
        scenes: dict[str, Scene],
        grid: int,
    ) -> None:
        self.samples = _encoded(rows, processor, stage.max_length)
        self._pixels, self._processor, self._tokens = pixels, processor, processor.tokens
        self._stage, self._scenes, self._grid = stage, scenes, grid

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """Steps of one bucket each, whatever the number of processes."""
        # -(-a // b) rounds up: the padded length in units of PAD_MULTIPLE.
        buckets = [(s.encoded.n_images, -(-len(s.encoded.ids) // PAD_MULTIPLE)) for s in self.samples]
        return bucketed_order(buckets, split.total, seed)

    def collate(self, samples: list[Sample]) -> Batch:
        images = self.image_inputs([name for sample in samples for name in sample.images])
        batch = collate(samples, images, pad_id=self._processor.pad_id, multiple=PAD_MULTIPLE)
        length = batch["input_ids"].shape[1]
        if self._stage.token_weights:
            weights = [token_weights(s, self._tokens, self._stage.token_weights) for s in samples]
            padded = [[*w, *[0.0] * (length - len(w))] for w in weights]
            batch["weights"] = torch.tensor(padded)
        if self._stage.guide_attention:
            batch |= target_tensors([self._targets(sample) for sample in samples], length)
        return batch

    def image_inputs(self, names: Sequence[str]) -> Batch:
        """What the model reads of these views."""
        return self._processor.image_inputs([RowInputs({}, [self._pixels[name] for name in names])])

    def _targets(self, sample: Sample) -> list[Any]:
        scene = self._scenes.get(split_crop(sample.images[0])[0]) if sample.images else None
        return targets_of(sample, scene, self._tokens, self._grid) if scene else []
