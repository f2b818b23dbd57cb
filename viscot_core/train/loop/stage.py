"""One stage: the order of its rows, the Trainer's arguments, its model on disk."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viscot_core.errors import CheckpointError, DataError, PartlyDone
from viscot_core.families.compiling import can_compile
from viscot_core.files import atomic_write, sync_folder
from viscot_core.train import ranks
from viscot_core.train.loop.mixture_dataset import MixtureDataset
from viscot_core.train.loop.packing_proof import ProvePacking
from viscot_core.train.loop.preflight import row_counts
from viscot_core.train.loop.throughput import meter_for
from viscot_core.train.loop.trainable import add_adapters, freeze_for, learning, parameter_groups
from viscot_core.train.loop.trainer import StageTrainer
from viscot_core.train.objectives import varlen
from viscot_core.train.objectives.base import Objective, StageRows, objective_class
from viscot_core.train.plan.plan_types import (
    PLAN_FILE,
    Split,
    read_plan,
    split_batch,
    steps_of,
    with_recompute,
)
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.state import checkpoints
from viscot_core.train.state.initial import Run
from viscot_core.train.state.saving import load_weights, save_model

log = logging.getLogger(__name__)

EXTRA = "heads.pt"
"""In a checkpoint: weights that an objective trains beside the model."""


def run_stage(run: Run, stage: StageSpec, out: Path) -> None:
    """Train one stage, from its last complete checkpoint if it has one; ``out/model`` is then its model.

    `PartlyDone`: the run was told to stop, and has saved.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    try:
        _run_stage(run, stage, out)
    finally:
        # Under ZeRO-3 transformers divides every model that is built while the stage's arguments live, and
        # the callbacks' references to the Trainer keep them alive.
        unset_hf_deepspeed_config()


def _run_stage(run: Run, stage: StageSpec, out: Path) -> None:
    recipe, split, stage = run.recipe, split_of(run.folder, stage), planned(run.folder, stage)
    freeze_for(run.training, run.model, stage)
    out.mkdir(parents=True, exist_ok=True)
    objective = objective_class(stage, recipe.model)(run, stage)
    rows = objective.open_rows()
    seed = recipe.seed if stage.seed is None else stage.seed
    model = _prepared(objective, objective.attach(run.model, rows, split, seed))
    counts = learning(run.training, model)
    log.info("stage %s trains %s", stage.kind, {part: f"{n:,}" for part, n in counts.items()})
    order = run_order(rows, stage, split, seed)
    steps = len(order) // split.total
    resume = checkpoints.last_checkpoint(out)
    other = checkpoints.weights_only(resume, stage, ranks.count())
    if resume and stage.zero_stage and other is None:
        from viscot_core.train.state.zero import require_no_code

        require_no_code(resume)
    meter = meter_for(run.training.shape_of_config(run.model.config), stage, split)
    if written := resume and checkpoints.record_of(resume):
        meter.bad = written.bad

    def save(module: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None) -> None:
        if (extra := objective.extra(module)) is not None:
            torch.save(extra.state_dict(), folder / EXTRA)
        save_model(run, stage, objective.detach(module), folder, weights)

    def load(module: Any, folder: Path) -> None:
        if (extra := objective.extra(module)) is not None:
            extra.load_state_dict(torch.load(folder / EXTRA, weights_only=True))
        load_weights(run.training, objective.detach(module), folder)

    if other is not None:
        load(model, other.checkpoint)
        # The Trainer is not told of this checkpoint and skips no rows: those read are cut off here.
        order = order[other.step * split.total :]
    if packed := isinstance(rows, MixtureDataset) and rows.layout == "one row":
        varlen.register()
        run.training.use_attention(run.model, varlen.VARLEN)
    trainer = StageTrainer(
        model=model,
        objective=objective,
        args=training_arguments(run, stage, out, split, steps, seed),
        rows=rows,
        order=order,
        groups=parameter_groups(run.training, model, stage),
        save=save,
        load=load,
        log_file=out / "log.jsonl",
        meter=meter,
        files=row_counts(run, stage) if ranks.rank() == 0 else {},
        allow_bad=recipe.data.allow_bad,
        start=other.step if other else 0,
    )
    if isinstance(rows, MixtureDataset) and rows.layout != "padded":
        usual = partial(run.training.use_attention, run.model, recipe.model.attention)
        trainer.add_callback(ProvePacking(trainer, rows, bool(stage.packing), usual if packed else int))
    if stage.eval is not None:
        from viscot_core.train.evaluation.callback import Evaluate

        trainer.add_callback(Evaluate(trainer, run, stage, out, partial(_write_model, objective, trainer)))
    try:
        _train(trainer, resume, out, started=other is not None)
        _keep_model(objective, trainer, out)
    finally:
        trainer.end_loader()
        # Callbacks that know the Trainer would keep it and the optimizer's state in memory after the stage.
        trainer.callback_handler.callbacks.clear()


def _train(trainer: StageTrainer, resume: Path | None, out: Path, *, started: bool) -> None:
    """All steps that are left; ``started``: the weights of ``resume`` are loaded already."""
    try:
        trainer.train(resume_from_checkpoint=None if resume is None or started else str(resume))
    except pickle.UnpicklingError as error:  # the Trainer reads its files with weights_only
        raise CheckpointError(
            f"{resume} is damaged, or holds more than numbers; delete it: --resume takes the one before."
        ) from error
    if trainer.left_early:
        ranks.wait()  # until the first process has marked the checkpoint complete
        raise PartlyDone(
            f"Stopped by a signal after step {trainer.state.global_step} of stage {out.name}, which is "
            "saved; the same command with --resume continues."
        )
    trainer.require_finite_weights()


def run_order(rows: StageRows, stage: StageSpec, split: Split, seed: int) -> NDArray[np.int64]:
    """The rows of all steps, one epoch's order after another. `DataError` where there is no row."""
    epochs = [rows.order(split, seed)]
    if not len(epochs[0]):
        raise DataError(f"stages.{stage.kind} would train nothing: its files hold no row; give more data.")
    steps = steps_of(stage, len(epochs[0]))
    while sum(map(len, epochs)) < steps * split.total:
        epochs.append(rows.order(split, seed + len(epochs)))
    return np.concatenate(epochs)[: steps * split.total]


def split_of(folder: Path, stage: StageSpec) -> Split:
    """How the global batch is split: as planned for this number of processes, else without accumulation."""
    processes = ranks.count()
    if (folder / PLAN_FILE).exists():
        for planned in read_plan(folder).stages:
            if planned.kind == stage.kind and planned.processes == processes:
                return Split(planned.per_device_batch_size, planned.accumulation, processes)
    return split_batch(stage, processes, lambda _: True)


def planned(folder: Path, stage: StageSpec) -> StageSpec:
    """``stage`` with what the plan chose where the recipe leaves it open: which layers are recomputed."""
    if stage.gradient_checkpointing is not None:
        return stage
    stages = read_plan(folder).stages if (folder / PLAN_FILE).exists() else ()
    found = [one.recompute for one in stages if one.kind == stage.kind and one.recompute is not None]
    # Without a plan: a GPU's memory is what is short.
    return with_recompute(stage, found[0] if found else int(torch.cuda.is_available()))


def _prepared(objective: Objective, model: Any) -> Any:
    """``model`` with gradient checkpointing, adapters and compilation as the recipe wants them."""
    stage, own, training = objective.stage, objective.run.model, objective.run.training
    if stage.gradient_checkpointing:
        own.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=stage.recompute_every)
        own.enable_input_require_grads()  # frozen embeddings would cut the recomputed graph off
    if stage.lora:
        model = add_adapters(training, own, stage.lora, stage)
    if stage.compile and can_compile("cuda" if torch.cuda.is_available() else "cpu"):
        training.compile_parts(own, language_model=objective.reads_text)
    return model


def _keep_model(objective: Objective, trainer: StageTrainer, out: Path) -> None:
    """Write the stage's model to ``out/model``, which appears only when it is complete."""
    partial_folder = out / "model.partial"
    _write_model(objective, trainer, partial_folder)
    if ranks.rank() == 0:
        sync_folder(partial_folder)
        os.replace(partial_folder, out / "model")
    ranks.wait()


def _write_model(objective: Objective, trainer: StageTrainer, folder: Path) -> None:
    """Write the model as it is now; called on every process, which all return when it is written."""
    with checkpoints.naming_a_full_disk(folder.parent):
        if trainer.is_deepspeed_enabled:
            trainer.save_model(str(folder))
        elif ranks.rank() == 0:
            save_model(objective.run, objective.stage, objective.detach(trainer.model), folder)
    ranks.wait()


def training_arguments(run: Run, stage: StageSpec, out: Path, split: Split, steps: int, seed: int) -> Any:
    """`TrainingArguments` of a stage of ``steps`` optimizer steps; writes its ``deepspeed.json``."""
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    report_to = list(run.recipe.report_to) if ranks.rank() == 0 else []
    return TrainingArguments(
        output_dir=str(out),
        run_name=f"{run.recipe.name}-{stage.kind}",
        project=run.recipe.name,  # trackio's word; it writes to this machine
        max_steps=steps,
        per_device_train_batch_size=split.per_device,
        gradient_accumulation_steps=split.accumulation,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=math.ceil(steps * stage.warmup_ratio),
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.precision == "bf16",
        fp16=stage.precision == "fp16",
        tf32=stage.tf32 if gpu else None,
        use_cpu=not gpu,
        deepspeed=_deepspeed(run, stage, out, split, gpu),
        # Every parameter that learns gets a gradient in every step (`freeze_for`, `allow_text_only_batches`).
        ddp_find_unused_parameters=False,
        # As long as in `ranks.join`.
        ddp_timeout=7200,
        save_steps=stage.save_steps,
        logging_steps=stage.log_steps,
        # The filter would log a mean in place of a loss that is not finite.
        logging_nan_inf_filter=False,
        dataloader_num_workers=stage.workers,
        dataloader_persistent_workers=stage.workers > 0,
        # The order is whole steps long (`run_order`): nothing is dropped.
        dataloader_drop_last=True,
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
        report_to=report_to,
        disable_tqdm=True,
        seed=seed,
    )


def _deepspeed(run: Run, stage: StageSpec, out: Path, split: Split, gpu: bool) -> dict[str, Any] | None:
    if not stage.zero_stage:
        # Set by an earlier stage of this process: accelerate would go on under ZeRO.
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        return None
    from viscot_core.train.state import zero

    if not gpu:
        zero.prepare_cpu()
    config = zero.deepspeed_config(stage, split, run.training.text_width(run.model.config), gpu=gpu)
    if ranks.rank() == 0:
        with atomic_write(out / zero.CONFIG_FILE) as file:
            json.dump(config, file, indent=1)
    return config
