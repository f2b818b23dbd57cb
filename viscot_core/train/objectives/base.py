"""What a stage learns: the interface that every loss has, and which one a stage takes.

Supervised fine-tuning is `sft.Sft`, preferences over pairs are `dpo.Dpo`, reinforcement over rollouts is
`grpo.Grpo`. Each is a class of its own and a line of `_CLASSES`: trainer, plan, resume, log and checkpoints
are shared. Classes are imported when a stage asks for them, so that a run loads the code of its own stages
only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from viscot_core.data.encode import Batch
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import ModelSpec, StageSpec, reads_whole_files
from viscot_core.train.state.initial import Run

_SFT = ("viscot_core.train.objectives.sft", "Sft")
_CLASSES = {
    "pretrain": _SFT,
    "finetune": _SFT,
    "dpo": ("viscot_core.train.objectives.dpo", "Dpo"),
    "grpo": ("viscot_core.train.objectives.grpo", "Grpo"),
    "foundation": ("viscot_core.train.tiny.foundation", "Foundation"),
}
"""Module and class by the kind of stage."""
_WHOLE_FILES = ("viscot_core.train.tiny.chains", "Chains")
"""In place of `_SFT` where a stage reads its files whole: rows may then have token and attention targets."""


class StageRows(Protocol):
    """A data set with an order of its rows and a way to make a batch of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """Row numbers of one epoch, whole optimizer steps long, the same for any number of processes."""
        ...

    def collate(self, rows: list[Any]) -> Batch: ...


@dataclass(frozen=True, slots=True)
class TrainStep:
    """The optimizer step that a batch belongs to: what its loss is divided by, and how far the run is.

    ``loss_tokens`` is a scalar tensor: the supervised tokens of the *global* batch, over all ``processes``
    and all ``batches`` that a process accumulates; None where the objective does not count them.
    """

    loss_tokens: torch.Tensor | None
    processes: int
    batches: int
    number: int
    """Steps done before this one."""
    of: int
    """Steps of the whole run."""


class Objective(ABC):
    """The rows of a stage and the loss over them."""

    reads_text: ClassVar[bool] = True
    """Whether the language model runs: samples are checked before step 0, and it is compiled."""

    reads_conversations: ClassVar[bool] = True
    """Whether the rows of its files are training conversations, as the preflight reads them."""

    def __init__(self, run: Run, stage: StageSpec) -> None:
        self.run, self.stage = run, stage

    @abstractmethod
    def open_rows(self) -> StageRows:
        """The rows of the stage."""

    @abstractmethod
    def counts(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """``float64[4]`` on the CPU: loss tokens, real tokens, padded tokens, bad rows of a batch.

        Loss tokens (supervised ones, weighted where tokens have weights) are what the step's loss is divided
        by. None: the loss is a mean over the batch.
        """

    @abstractmethod
    def loss(self, model: Any, batch: Any, step: TrainStep) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A batch's share of its step's loss, and the parts that the log shows (`loop.loss_parts.LossParts`).

        Shares are scaled so that the mean over processes of the sum over accumulated batches is the loss of
        the global batch: DDP and ZeRO average gradients over processes, and accumulation adds them.
        """

    def attach(self, model: Any, rows: StageRows, split: Split, seed: int) -> Any:
        """The module that is trained: ``model``, or a module around it with what else the loss trains."""
        return model

    def detach(self, module: Any) -> Any:
        """The model inside what `attach` returned."""
        return module

    def extra(self, module: Any) -> torch.nn.Module | None:
        """What `attach` added, to be kept in checkpoints but not in the model; None: nothing."""
        return None


def objective_class(stage: StageSpec, model: ModelSpec) -> type[Objective]:
    """What a stage of this kind learns, on this model."""
    place, name = _CLASSES[stage.kind]
    if (place, name) == _SFT and reads_whole_files(stage, model):
        place, name = _WHOLE_FILES
    found: type[Objective] = getattr(import_module(place), name)
    return found
