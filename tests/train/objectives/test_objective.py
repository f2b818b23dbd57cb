"""Another loss joins as a class and a line of the table: its own rows, log entries and extra weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_job import recipe_of
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional as F

from viscot_core.data.encode import Batch
from viscot_core.data.synth import write_dataset
from viscot_core.families.inputs import IGNORE
from viscot_core.train import worker
from viscot_core.train.objectives import base
from viscot_core.train.objectives.base import StageRows, TrainStep
from viscot_core.train.objectives.sft import Sft, token_losses
from viscot_core.train.plan.plan_types import Split


class PairRows:
    """Every two rows of the stage as a pair: the first one is preferred."""

    def __init__(self, rows: StageRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows) // 2

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._rows[2 * index], self._rows[2 * index + 1]

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        return np.resize(np.random.default_rng(seed).permutation(len(self)), -(-len(self) // 4) * 4)

    def collate(self, pairs: list[tuple[Any, Any]]) -> Batch:
        return self._rows.collate([first for first, _ in pairs] + [second for _, second in pairs])


class Scaled(torch.nn.Module):
    """A model with a learned scale beside it, which is no part of the model on disk."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.scale = inner, torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.scale.weight)

    def forward(self, **batch: Any) -> Any:
        out = self.inner(**batch)
        return SimpleNamespace(logits=self.scale.weight * out.logits)


class Pairs(Sft):
    """The preferred row is to be likelier than the other one."""

    def open_rows(self) -> StageRows:
        return PairRows(super().open_rows())

    def counts(self, batch: Mapping[str, torch.Tensor]) -> None:
        return None

    def attach(self, model: Any, rows: StageRows, split: Split, seed: int) -> Any:
        return Scaled(model)

    def detach(self, module: Any) -> Any:
        return module.inner if isinstance(module, Scaled) else module

    def extra(self, module: Any) -> torch.nn.Module:
        scale: torch.nn.Module = module.scale
        return scale

    def loss(
        self, model: Any, batch: dict[str, torch.Tensor], step: TrainStep
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = self.text_logits(self.forward(model, batch))
        losses = token_losses(logits, batch["labels"]).view(len(logits), -1).sum(1)
        chosen, other = losses.chunk(2)
        margin = (other - chosen) / (batch["labels"] != IGNORE).sum()
        loss = -F.logsigmoid(margin).mean() / step.batches
        return loss, {"margin": margin.mean() / step.batches}


@pytest.mark.slow
def test_pairs_train_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    write_dataset(root, train=8, val=1, seed=9)
    shutil.copy(root / "train.json", root / "mixed.json")
    recipe = recipe_of("mixed-ddp", root)
    stage = recipe.stages[0].model_copy(update={"packing": False, "group_by": "length"})
    recipe = recipe.model_copy(update={"stages": (stage,)})
    monkeypatch.setitem(base._CLASSES, "finetune", (__name__, "Pairs"))
    monkeypatch.setattr(base, "import_module", lambda _: SimpleNamespace(Pairs=Pairs))
    run = worker.run(tmp_path / "run", recipe)
    out = run / "stages/1-finetune"
    steps = logged(out)
    assert [row["step"] for row in steps] == [1, 2, 3, 4] and all("margin" in row for row in steps)
    assert torch.load(out / "checkpoint-2/heads.pt", weights_only=True)["weight"] != 1, "it learned"
    assert not [name for name in load_file(run / "model.safetensors") if "scale" in name]
    for leftover in ("model", "checkpoint-4"):
        shutil.rmtree(out / leftover)
    (out / "log.jsonl").unlink()
    worker.run(run, recipe)
    resumed = {row["step"]: row["loss"] for row in logged(out)}
    assert resumed == pytest.approx({row["step"]: row["loss"] for row in steps[2:]}, abs=1e-6)


def logged(out: Path) -> list[dict[str, float]]:
    rows = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [row for row in rows if "loss" in row]
