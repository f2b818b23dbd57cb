"""The training process: ``python -m viscot_core.train.worker --run RUN_DIR [--stage KIND]``.

Reads ``RUN_DIR/recipe.yaml`` (resolved; ``data.root`` set) and runs its stages in order, or one of them. A
finished stage leaves its model in ``RUN_DIR/stages/N-KIND/model``; the last one also in ``RUN_DIR`` itself,
which is then a checkpoint like any other. Started again, it goes on behind the last finished stage, from the
last whole checkpoint of the next. Under torchrun every rank runs this file.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viscot_core.errors import DataError, UsageError
from viscot_core.families.llava.template import TEMPLATES, Template
from viscot_core.train import checkpoints, ranks
from viscot_core.train.arguments import training_arguments
from viscot_core.train.batch import Split, split_batch, steps_of
from viscot_core.train.foundation import FoundationModel, whiten_projector
from viscot_core.train.inputs import StageRows, check_rows, open_rows, row_counts
from viscot_core.train.meters import meter_for
from viscot_core.train.orphans import die_with_parent
from viscot_core.train.planned import PLAN_FILE, read_plan
from viscot_core.train.resumed import GoOnFrom
from viscot_core.train.saving import load_stage, save_model, save_stage
from viscot_core.train.schema import Recipe, StageSpec
from viscot_core.train.stages import add_adapters, freeze_for, learning
from viscot_core.train.start import Run, load, open_run
from viscot_core.train.trainer import StageTrainer

log = logging.getLogger(__name__)


def run(folder: Path, recipe: Recipe, only: str | None = None) -> Path:
    """Run every stage that is not finished, or ``only`` one; returns the folder of the trained checkpoint."""
    wanted = [stage for stage in recipe.stages if only in (None, stage.kind)]
    if not wanted:
        raise UsageError(
            f"The recipe has no stage '{only}'; it has {', '.join(s.kind for s in recipe.stages)}."
        )
    state = open_run(folder, recipe)
    places = [folder / "stages" / f"{number}-{stage.kind}" for number, stage in enumerate(recipe.stages, 1)]
    for stage, out in zip(recipe.stages, places, strict=True):
        if not _is_finished(out):  # also the later stages' rows: not after hours of the first
            check_rows(state, stage, _template(recipe, stage), out)
    load(state, wanted[0])
    for stage, out in zip(recipe.stages, places, strict=True):
        if _is_finished(out):
            log.info("stage %s is finished; going on", out.name)
            if out != places[-1]:  # else nothing follows that needs them
                checkpoints.load_weights(state.model, out / "model")
        elif stage in wanted:
            _run_stage(state, stage, out)
        else:
            break
    else:
        _finish(folder, state)
    return folder


def _is_finished(out: Path) -> bool:
    return (out / "model" / "viscot.json").exists() or (out / "model" / "config.json").exists()


def _finish(folder: Path, state: Run) -> None:
    """The run folder becomes the checkpoint of its last stage."""
    if ranks.rank() == 0:
        last = state.recipe.stages[-1]
        model = folder / "stages" / f"{len(state.recipe.stages)}-{last.kind}" / "model"
        files = [path for path in model.rglob("*") if path.is_file()]
        with checkpoints.disk_full_named(folder):
            for path in sorted(files, key=lambda p: p.name == "viscot.json"):  # the manifest last
                _link(path, folder / path.relative_to(model))
    ranks.wait()


def _link(path: Path, target: Path) -> None:
    """``target`` becomes another name of ``path``, or a copy where there are no hard links; whole or not
    there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_file = target.with_name(f".{target.name}.partial")
    partial_file.unlink(missing_ok=True)
    try:
        os.link(path, partial_file)
    except OSError:
        shutil.copyfile(path, partial_file)
    partial_file.replace(target)


def _run_stage(state: Run, stage: StageSpec, out: Path) -> None:
    recipe, split = state.recipe, _split(state.folder, stage)
    freeze_for(state.model, stage)
    out.mkdir(parents=True, exist_ok=True)
    rows = open_rows(state, stage, _template(recipe, stage))
    seed = recipe.seed if stage.seed is None else stage.seed
    model = _prepared(state, stage, rows, split, seed)
    log.info("stage %s trains %s", stage.kind, {part: f"{n:,}" for part, n in learning(model).items()})
    order = run_order(rows, stage, split, seed)
    steps = len(order) // split.total
    resume = checkpoints.last_checkpoint(out)
    moved = checkpoints.moved_from(resume, stage, ranks.count())
    meter = meter_for(state, stage, split)
    if saved := resume and checkpoints.saved_of(resume):
        meter.bad = saved.bad
    if moved is not None:
        load_stage(model, moved.checkpoint)
        order = order[moved.step * split.total :]
    trainer = StageTrainer(
        model=model,
        stage=stage,
        args=training_arguments(state, stage, out, split, steps, seed),
        rows=rows,
        order=order,
        save=partial(save_stage, state, stage),
        load=load_stage,
        log_file=out / "log.jsonl",
        meter=meter,
        files=row_counts(state, stage) if ranks.rank() == 0 else {},
        allow_bad=recipe.data.allow_bad,
        text_rows=None if state.base is None else state.base.text_rows,
    )
    if moved is not None:
        trainer.add_callback(GoOnFrom(trainer, moved.step))
    trainer.train(resume_from_checkpoint=None if resume is None or moved else str(resume))
    _keep_model(state, stage, trainer, out)


def run_order(rows: StageRows, stage: StageSpec, split: Split, seed: int) -> NDArray[np.int64]:
    """The rows of all steps of a stage: one epoch's order behind another.

    `DataError` where an epoch has not one batch (the tiny recipe's are of one length and kind each).
    """
    epochs = [rows.order(split, seed)]
    if not len(epochs[0]):
        raise DataError(
            f"stages.{stage.kind} would train nothing: no {split.total} of its rows make a batch; "
            f"give more data or --set stages.{stage.kind}.global_batch_size=N."
        )
    steps = steps_of(stage, len(epochs[0]))
    while sum(map(len, epochs)) < steps * split.total:
        epochs.append(rows.order(split, seed + len(epochs)))
    return np.concatenate(epochs)[: steps * split.total]


def _split(folder: Path, stage: StageSpec) -> Split:
    """The plan's split of the global batch where its number of processes is ours, else the fewest pieces."""
    processes = ranks.count()
    if (folder / PLAN_FILE).exists():
        for planned in read_plan(folder).stages:
            if planned.kind == stage.kind and planned.processes == processes:
                return Split(planned.per_device_batch_size, planned.accumulation, processes)
    return split_batch(stage, processes, lambda _: True)


def _template(recipe: Recipe, stage: StageSpec) -> Template:
    return TEMPLATES[stage.template or ("plain" if stage.kind == "pretrain" else recipe.model.template)]


def _prepared(state: Run, stage: StageSpec, rows: StageRows, split: Split, seed: int) -> Any:
    """The model as the Trainer gets it: under heads, under adapters, compiled."""
    model = state.model
    if stage.kind == "foundation":
        assert stage.foundation is not None
        torch.manual_seed(seed)
        model = FoundationModel(state.model, stage.foundation)
        if stage.foundation.whiten_projector:
            sample = [rows[i] for i in rows.order(split, seed)[:256].tolist()]
            whiten_projector(state.model, rows.collate(sample)["pixel_values"])
    if stage.gradient_checkpointing:
        state.model.gradient_checkpointing_enable({"use_reentrant": False})
        state.model.enable_input_require_grads()  # frozen embeddings would cut the recomputed graph
    if stage.lora:
        model = add_adapters(state.model, stage.lora, stage)
    if stage.compile:
        # Every padded length and number of images is a shape of its own: more than the default eight.
        torch._dynamo.config.recompile_limit = 64
        state.model.model.vision_tower.compile(dynamic=False)
        if stage.kind != "foundation":
            state.model.model.language_model.compile(dynamic=False)
    return model


def _keep_model(state: Run, stage: StageSpec, trainer: StageTrainer, out: Path) -> None:
    """The stage's model, whole or not at all."""
    partial_folder = out / "model.partial"
    with checkpoints.disk_full_named(out):
        if trainer.is_deepspeed_enabled:
            trainer.save_model(str(partial_folder))
        elif ranks.rank() == 0:
            save_model(state, stage, trainer.model, partial_folder)
    ranks.wait()
    if ranks.rank() == 0:
        os.replace(partial_folder, out / "model")
    ranks.wait()


def main() -> None:
    """The process's edge under torchrun: its error lands in the rank's ``error.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", "--run-folder", type=Path, required=True, help="run folder with recipe.yaml")
    parser.add_argument("--stage", help="only the stage of this kind")
    given = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()  # started by hand, it may outlive its shell
    ranks.join()
    level = logging.INFO if ranks.rank() == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    from viscot_core.train.recipe import load_recipe

    run(given.run, load_recipe(given.run / "recipe.yaml"), given.stage)
    ranks.leave()


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    record(main)()
