"""A stage's settings as the Trainer takes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from viscot_core.files import atomic_write
from viscot_core.train import ranks, zero
from viscot_core.train.batch import Split
from viscot_core.train.schema import StageSpec
from viscot_core.train.start import Run


def training_arguments(state: Run, stage: StageSpec, out: Path, split: Split, steps: int, seed: int) -> Any:
    """`TrainingArguments` of a stage that runs ``steps`` optimizer steps; ``deepspeed.json`` beside its
    log.
    """
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    report_to = list(state.recipe.report_to) if ranks.rank() == 0 else []
    return TrainingArguments(
        output_dir=str(out),
        run_name=f"{state.recipe.name}-{stage.kind}",
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
        deepspeed=_deepspeed(state, stage, out, split, gpu),
        ddp_find_unused_parameters=False,
        ddp_timeout=7200,
        save_steps=stage.save_steps,
        logging_steps=stage.log_steps,
        logging_nan_inf_filter=False,
        dataloader_num_workers=stage.workers,
        dataloader_persistent_workers=stage.workers > 0,
        dataloader_drop_last=True,
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
        report_to=report_to,
        disable_tqdm=True,
        seed=seed,
    )


def _deepspeed(state: Run, stage: StageSpec, out: Path, split: Split, gpu: bool) -> dict[str, Any] | None:
    if not stage.zero_stage:
        return None
    if not gpu:
        zero.prepare_cpu()
    width = int(state.model.config.text_config.hidden_size)
    config = zero.deepspeed_config(stage, split, width, gpu=gpu)
    if ranks.rank() == 0:
        with atomic_write(out / zero.CONFIG_FILE) as file:
            json.dump(config, file, indent=1)
    return config
