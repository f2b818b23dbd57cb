"""DeepSpeed's configuration, built from the recipe and saved in the run folder, never edited by hand."""

from __future__ import annotations

import os
from typing import Any

from viscot_core.train.batch import Split
from viscot_core.train.schema import StageSpec

CONFIG_FILE = "deepspeed.json"


def deepspeed_config(stage: StageSpec, split: Split, width: int, *, gpu: bool) -> dict[str, Any]:
    """The configuration of a stage with ``zero_stage`` 1-3.

    ``width`` is the language model's hidden size. Bucket sizes are numbers: ``"auto"`` fails, because LLaVA's
    config has no ``hidden_size`` of its own.
    """
    zero: dict[str, Any] = {
        "stage": stage.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": gpu,
        "reduce_bucket_size": max(width * width, 1_000_000),
    }
    if stage.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": int(0.9 * width * width),
            "stage3_param_persistence_threshold": 10 * width,
            "stage3_gather_16bit_weights_on_model_save": True,
            "sub_group_size": 1_000_000_000,
        }
    if stage.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": gpu}
    if stage.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": gpu}
    config: dict[str, Any] = {
        "train_batch_size": split.total,
        "train_micro_batch_size_per_gpu": split.per_device,
        "gradient_accumulation_steps": split.accumulation,
        "gradient_clipping": stage.max_grad_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW: nothing to compile
        "steps_per_print": 10**9,
    }
    if stage.precision == "bf16":
        config["bf16"] = {"enabled": True}
    if stage.precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}
    return config


def prepare_cpu() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives (a minute and a compiler) on a CPU
    machine.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
