"""The reference's own two-stage training, replayed: the same batches give the same losses, step for step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_training import golden_recipe

from viscot_core.train.plan.plan_types import Split

SPLIT = Split(4, 1, 1)


def replayed_order(rows: Any, steps: list[dict[str, Any]], image_id: int) -> list[int]:
    """The reference's order of rows, found by their ids (its image tokens are one -200 each)."""
    by_ids: dict[tuple[int, ...], list[int]] = {}
    for number in range(len(rows)):
        ids: list[int] = []
        for token in rows[number].sample.encoded.ids:
            if token != image_id:
                ids.append(token)
            elif not ids or ids[-1] != -200:
                ids.append(-200)
        by_ids.setdefault(tuple(ids), []).append(number)
    order = []
    for step in steps:
        for row in step["input_ids"]:
            while row and row[-1] == 0:
                row = row[:-1]
            order.append(by_ids[tuple(row)].pop(0))
    return order


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_losses_of_the_reference(kind: str, shared: Path, tmp_path: Path) -> None:
    from viscot_core.train.loop.mixture_dataset import MixtureDataset
    from viscot_core.train.loop.stage import training_arguments
    from viscot_core.train.loop.throughput import meter_for
    from viscot_core.train.loop.trainable import freeze_for, parameter_groups
    from viscot_core.train.loop.trainer import StageTrainer
    from viscot_core.train.objectives.sft import Sft
    from viscot_core.train.state.initial import start
    from viscot_core.train.state.saving import load_weights

    golden = shared / "golden"
    recipe = golden_recipe(golden)
    stage = recipe.stage(kind)  # type: ignore[arg-type]
    number = {"pretrain": 1, "finetune": 2}[kind]
    run = json.loads((golden / f"golden_train_run_stage{number}.json").read_text())
    state = start(tmp_path, recipe, stage)
    freeze_for(state.training, state.model, stage)
    files = [golden / "golden_train_run_data.json"]
    rows = MixtureDataset(files, state.images, state.processor.under("vicuna_v1"), stage)
    order = replayed_order(rows, run["steps"], state.base.config.image_token_id)
    trainer = StageTrainer(
        model=state.model,
        objective=Sft(state, stage),
        args=training_arguments(state, stage, tmp_path, SPLIT, 8, 42),
        rows=rows,
        order=order,
        groups=parameter_groups(state.training, state.model, stage),
        save=lambda *_: None,
        load=lambda model, folder: load_weights(state.training, model, folder),
        log_file=tmp_path / "log.jsonl",
        meter=meter_for(state.training.shape_of_config(state.model.config), stage, SPLIT),
    )
    trainer.args.save_strategy = "no"
    trainer.train()
    logged = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in logged if "loss" in line]
    expected = [step["loss"] for step in run["steps"]]
    assert losses == pytest.approx(expected, abs=2e-3)
