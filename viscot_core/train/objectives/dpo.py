"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    loss = -log sigmoid(beta * ((log p(chosen) - log p0(chosen)) - (log p(rejected) - log p0(rejected))))

p0 is the model as it was when the stage began, and log p the sum over the reply's own tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.utils.data import Dataset

from viscot_core.data.encode import Batch, load_views
from viscot_core.data.mixture import Mixture
from viscot_core.data.sampler import filled
from viscot_core.errors import DataError
from viscot_core.families.training import TrainingProcessor
from viscot_core.train.loop.mixture_dataset import BadRow, EncodedRow
from viscot_core.train.objectives.base import StageRows, TrainStep
from viscot_core.train.objectives.reply_rows import Replies, empty_row, reply_batch, reply_row, summed_by_row
from viscot_core.train.objectives.sft import share_of
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.preferences.pairs import REPLIES, pair_in
from viscot_core.train.recipe.schema import PreferenceSpec, StageSpec

PARTS = ("margin", "preferred", "reward_chosen")
"""What the log says of the pairs: beta times how far they moved apart, the share where the preferred reply
gained more, beta times how far that reply moved."""
EncodedPair = tuple[EncodedRow, EncodedRow]
"""The preferred reply's row and the other one's."""


class PairRows(Dataset[EncodedPair | BadRow]):
    """The pairs of a stage's files under one numbering."""

    def __init__(
        self, files: Sequence[Path], images: Path, processor: TrainingProcessor, stage: StageSpec
    ) -> None:
        self._files = [Mixture.open(path) for path in files]
        self._places = [(file, index) for file in self._files for index in range(len(file))]
        self._images, self._processor, self._stage = images, processor, stage

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> EncodedPair | BadRow:
        rows, number = self._places[index]
        try:
            pair = pair_in(rows, number)
            images = [view.image for view in load_views(self._images, pair.images)]
            first, second = (
                reply_row(
                    self._processor,
                    pair.turns(reply),
                    images,
                    number=index,
                    max_length=self._stage.max_length,
                )
                for reply in REPLIES
            )
        except DataError as error:  # an ImageError among them
            return BadRow(index, f"{rows.path.name}, row {number}: {error}")
        return first, second

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """A random order, whole optimizer steps long."""
        generator = torch.Generator().manual_seed(seed)
        return filled(torch.randperm(len(self), generator=generator).numpy(), split.total)

    def collate(self, pairs: list[EncodedPair | BadRow]) -> Batch:
        """The preferred rows, then the others in the same order; ``pairs`` (a count), ``rows``, ``bad``."""
        good = [pair for pair in pairs if not isinstance(pair, BadRow)]
        rows = [row for side in zip(*good, strict=True) for row in side] or [empty_row(self._processor)]
        batch = reply_batch(self._processor, rows)
        numbers = [pair.row if isinstance(pair, BadRow) else pair[0].row for pair in pairs]
        return {
            **batch,
            "pairs": torch.tensor(len(good)),
            "rows": torch.tensor(numbers),
            "bad": torch.tensor(len(pairs) - len(good)),
        }


class Dpo(Replies):
    """The mean over all pairs of the global batch."""

    reads_conversations: ClassVar[bool] = False

    def __init__(self, run: Any, stage: StageSpec) -> None:
        super().__init__(run, stage)
        self._spec = stage.preference or PreferenceSpec()

    def open_rows(self) -> StageRows:
        run, stage = self.run, self.stage
        files = [run.root / name for name in stage.data_files]
        return PairRows(files, run.images, run.processor_for(stage), stage)

    def loss_tokens(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Pairs: what the sum of a step's losses is divided by."""
        return batch["pairs"]

    def loss(
        self, model: Any, batch: dict[str, torch.Tensor], step: TrainStep
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        spec, pairs = self._spec, int(batch["pairs"])
        logprobs, rows = self.token_logprobs(model, batch)
        if not pairs:  # bad rows only: a loss of 0 that still reaches every parameter
            return logprobs.sum() * 0, dict.fromkeys(PARTS, logprobs.new_zeros(2))
        with self.reference(model) as before:
            reference, _ = self.token_logprobs(before, batch)
        count = 2 * pairs
        moved = summed_by_row(logprobs - reference, rows, count)
        said = summed_by_row(logprobs, rows, count)
        lengths = summed_by_row(torch.ones_like(logprobs), rows, count)
        chosen, rejected = (spec.beta * (moved / lengths if spec.length_normalised else moved)).chunk(2)
        losses = -F.logsigmoid(chosen - rejected)
        if spec.nll_weight:
            losses = losses - spec.nll_weight * (said / lengths)[:pairs]
        known = (chosen - rejected, (chosen > rejected).float(), chosen)
        sums = [torch.stack([part.sum(), part.new_tensor(pairs)]) for part in known]
        return share_of(losses.sum(), step), dict(zip(PARTS, sums, strict=True))
