"""What preferences and reinforcement share: rows of which one reply is learned, their log-probabilities.

A row is one turn of the model after everything it had seen: all images of the talk, its own earlier turns
read and not learned. Nothing of a row is ever cut off, its images least of all: a row that is too long is
counted and left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.data.encode import Batch, Sample, collate, only_learned
from viscot_core.errors import DataError
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.families.training import TrainingProcessor
from viscot_core.train.loop.mixture_dataset import EncodedRow
from viscot_core.train.objectives.sft import Sft
from viscot_core.train.objectives.token_loss import losses_of, with_targets
from viscot_core.train.state.initial import mixed_precision


class TooLong(DataError):
    """A row is longer than its stage reads."""


def reply_row(
    processor: TrainingProcessor,
    turns: Sequence[Message],
    images: Sequence[Image.Image],
    *,
    number: int,
    max_length: int,
    said: Sequence[int] = (),
) -> EncodedRow:
    """The row of a talk that ends with the reply to learn; ``images`` are those of its slots, in order.

    ``said``: the tokens that were drawn as the reply. The row is then the prompt that the engine read and
    these tokens, since the text of the whole talk need not give either: SmolVLM writes ``Assistant:`` as the
    prompt and ``Assistant: 7`` in a talk, and an empty reply, which is the end token alone, has no row there.
    (A loss that punishes another row than what was drawn teaches something else.)

    Raises:
        TooLong: it is longer than ``max_length``.
        DataError: it cannot be rendered.
    """
    sizes = [image.size for image in images]
    try:
        if said:
            rendered = _drawn(processor.render(turns[:-1], sizes, generate=True), said)
        else:
            rendered = only_learned(processor.render(turns, sizes), turns)
    except ValueError as error:
        raise DataError(f"{error}") from error
    if len(rendered.ids) > max_length:
        raise TooLong(f"its {len(rendered.ids)} tokens are more than max_length {max_length}")
    if not rendered.n_supervised:
        raise DataError("its reply has no token")
    sample = Sample(rendered, tuple("" for _ in images))
    return EncodedRow(number, sample, processor.row_inputs(rendered, images))


def _drawn(prompt: Rendered, said: Sequence[int]) -> Rendered:
    """A prompt and the tokens that were drawn after it, which alone are learned."""
    return Rendered([*prompt.ids, *said], [IGNORE] * len(prompt.ids) + list(said), prompt.n_images)


def reply_batch(processor: TrainingProcessor, rows: Sequence[EncodedRow]) -> Batch:
    """Rows padded to one length, with their images; ``said`` and ``targets`` are the learned tokens."""
    made = processor.image_inputs([row.inputs for row in rows])
    tokens = [row.inputs.tokens for row in rows]
    return with_targets(collate([row.sample for row in rows], made, pad_id=processor.pad_id, tokens=tokens))


def empty_row(processor: TrainingProcessor) -> EncodedRow:
    """A row without any label, so that every process takes part in a step."""
    rendered = Rendered([processor.pad_id] * 2, [IGNORE] * 2, 0)
    return EncodedRow(-1, Sample(rendered, ()), processor.row_inputs(rendered, []))


class Replies(Sft):
    """Base of the objectives over whole replies; ``reference`` is the model as the stage began with it."""

    _kept: Any = None

    def needs_reference(self) -> bool:
        """Whether the loss reads the reference at all."""
        return True

    def attach(self, model: Any, rows: Any, split: Any, seed: int) -> Any:
        # The weights are those the stage begins with, also when it is resumed: a checkpoint is read later.
        if self.needs_reference() and self.stage.lora is None:
            self._kept = copy.deepcopy(model).requires_grad_(requires_grad=False).eval()
        return model

    def token_logprobs(
        self, model: Any, batch: dict[str, torch.Tensor], temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each learned token and the row it stands in: ``float32[n]``, ``int64[n]``.

        ``temperature``: that of the distribution which is meant; tokens are drawn from another one than the
        model's own where it is not 1.
        """
        logits = self.text_logits(self.forward(model, batch, logits_to_keep=batch["said"])).flatten(0, -2)
        if temperature != 1:
            logits = logits / temperature
        said = batch["said"]
        rows = said.nonzero()[:, 0] if said.dim() == 2 else torch.zeros_like(said)
        return -losses_of(logits, batch["targets"]), rows

    @contextmanager
    def reference(self, model: Any) -> Iterator[Any]:
        """The reference model, without gradients: adapters switched off, or the weights kept at the start."""
        with torch.no_grad():
            if self._kept is None:
                # Inside DDP's wrapper, whose forward pass sends buffers to all processes: one that has
                # nothing to learn does not come here, and the others would wait for it.
                own = getattr(model, "module", model)
                with own.disable_adapter():
                    yield own
                return
            device = next(model.parameters()).device
            self._kept.to(device)
            with mixed_precision(self.stage, device):
                yield self._kept


def summed_by_row(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Sums of ``values[n]`` by their rows: ``[count]``."""
    return values.new_zeros(count).index_add_(0, rows, values)
