"""The proof that packing is exact for the model at hand, before its first step.

Samples of one row must not see each other. Where a model leaks (a state that runs on, a mask that joins them)
nothing fails: the loss is only a little wrong. So each model is asked: the answer for a sample must not
change with its neighbour's words, and must be the one that it gives for the sample alone.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from viscot_core.data.encode import Batch
from viscot_core.errors import UsageError
from viscot_core.families.inputs import IGNORE
from viscot_core.train.loop.mixture_dataset import EncodedRow, MixtureDataset

log = logging.getLogger(__name__)

LOOKED_AT = 64
"""Rows among which two are looked for to pack."""
NEIGHBOUR, ALONE = 1e-3, {4: 1e-3, 2: 0.15}
"""How far logits may be apart, relative to their size: with another neighbour (the same shapes: the same
roundings), and alone, by bytes of the numbers (other shapes: other roundings)."""


class ProvePacking(TrainerCallback):
    """Before the first step: packed logits equal those of samples alone, or the rows are padded after all."""

    def __init__(self, trainer: Any, rows: MixtureDataset, required: bool, plain: Any) -> None:
        """``plain()`` undoes what packing changed in the model; ``required``: refuse instead."""
        self._trainer, self._rows, self._required, self._plain = trainer, rows, required, plain

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        reason = self._reason()
        if reason is None:
            return
        told = f"samples of this model cannot be packed ({reason})"
        if self._required:
            raise UsageError(f"stages.{self._rows.stage.kind}.packing: true - {told}; leave it out.")
        log.warning("%s: they are padded", told)
        self._rows.layout = "padded"
        self._plain()

    def _reason(self) -> str | None:
        """Why not; None where it is exact, or where the loss will say what is wrong (no row, no numbers)."""
        pair = two_rows(self._rows, self._trainer.order)
        if pair is None:
            return None
        try:
            apart = proof(self._trainer, self._rows, *pair)
        except ValueError as error:  # a layer that knows borders of samples and has no kernel for them
            return str(error)
        # The largest of all processes: they go on in one way.
        neighbour, alone = self._trainer.accelerator.gather(apart[None]).max(0).values.tolist()
        if math.isnan(neighbour) or (neighbour <= NEIGHBOUR and alone <= 1.0):
            log.info("packing is exact: %.1e from another neighbour", neighbour)
            return None
        return (
            f"logits change by {neighbour:.1e} with the neighbour, and alone by {alone:.1e} times what "
            "rounding explains"
        )


def two_rows(rows: MixtureDataset, order: Any) -> tuple[EncodedRow, EncodedRow] | None:
    """Two good rows of the run, with images and different if there are such."""
    looked = [item for n in order[:LOOKED_AT] if isinstance(item := rows[int(n)], EncodedRow)]
    looked.sort(key=lambda item: (not item.sample.images, len(item.sample.encoded.ids)))
    if not looked:
        return None
    return looked[0], next((one for one in looked if one.row != looked[0].row), looked[0])


def proof(trainer: Any, rows: MixtureDataset, sample: EncodedRow, neighbour: EncodedRow) -> torch.Tensor:
    """``float64[2]``: how far a sample's packed logits are from those with another neighbour (relative), and
    from those alone (in shares of what is allowed).
    """
    other = _other_words(neighbour, sample)
    length, before = len(sample.sample.encoded.ids), rows.layout
    try:
        rows.layout = "one row"  # in this order, also where rows are filled
        packed = [_logits(trainer, rows.batch([one, sample]), length) for one in (neighbour, other)]
        rows.layout = "padded"
        alone = _logits(trainer, rows.batch([sample]), length)
    finally:
        rows.layout = before
    size = alone.norm()
    allowed = ALONE[4 if trainer.stage.precision == "fp32" else 2]
    found = torch.stack([(packed[0] - packed[1]).norm() / size, (packed[0] - alone).norm() / size / allowed])
    return found.to(trainer.args.device)


def _other_words(item: EncodedRow, giver: EncodedRow) -> EncodedRow:
    """The row with other words where the assistant speaks: those of another row, in turn."""
    encoded = item.sample.encoded
    said = [token for token in giver.sample.encoded.labels if token != IGNORE]
    places = [place for place, label in enumerate(encoded.labels) if label != IGNORE]
    ids = list(encoded.ids)
    for number, place in enumerate(places):
        different = [token for token in (*said[number % len(said) :], *said) if token != ids[place]]
        ids[place] = different[0] if different else ids[place]
    return replace(item, sample=replace(item.sample, encoded=replace(encoded, ids=ids)))


def _logits(trainer: Any, batch: Batch, last: int) -> torch.Tensor:
    """``float64[last, V]``: logits at the last tokens of the batch's only row, no gradient, no dropout."""
    length = batch["input_ids"].shape[1]
    kept = torch.arange(length - last, length)
    moved = trainer._prepare_inputs({**batch, "said": kept})
    # Not in `eval`: bitsandbytes would turn weights on a CPU into a form that learns nothing any more.
    trainer.model_wrapped.train()
    dropouts = [m for m in trainer.model.modules() if isinstance(m, nn.Dropout) and m.training]
    for module in dropouts:
        module.eval()
    # Without gradients compiled layers would be compiled once more.
    with torch.no_grad(), trainer.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
        out = trainer.objective.forward(trainer.model_wrapped, moved, logits_to_keep=moved["said"])
    for module in dropouts:
        module.train()
    return torch.as_tensor(trainer.objective.text_logits(out)).flatten(0, -2).double().cpu()
