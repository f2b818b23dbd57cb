"""DeepSpeed's ZeRO: its configuration, and weights of which each process holds its share (ZeRO-3).

Built whole in every process, a 13B model takes 8 x 25 GB of a machine's memory before DeepSpeed divides it.
Here its modules are divided while they are made (transformers and DeepSpeed do that), and every tensor is
then gathered, filled by the first process and divided again, one at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.checkpoint import BuildOptions, Checkpoint
from viscot_core.families.training import Training
from viscot_core.tensors import load_pickle
from viscot_core.train import ranks
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import ModelSpec, StageSpec

CONFIG_FILE = "deepspeed.json"
_TAG = re.compile(r"global_step\d+")
"""The folder in a checkpoint that holds the optimizer's shares, as the Trainer names it."""


def deepspeed_config(stage: StageSpec, split: Split, width: int, *, gpu: bool) -> dict[str, Any]:
    """The configuration of a stage with ``zero_stage`` 1-3, built from the recipe and never edited by hand.

    ``width`` is the language model's hidden size. Bucket sizes are numbers: ``"auto"`` fails, because a
    multimodal config has no ``hidden_size`` of its own.
    """
    # Bucket and prefetch sizes and the threshold follow the formulas that transformers uses for "auto".
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
        # In effect never: `StageLog` prints instead.
        "steps_per_print": 10**9,
    }
    if stage.precision == "bf16":
        config["bf16"] = {"enabled": True}
    if stage.precision == "fp16":
        # A loss scale of 0 means a dynamic one; it starts at 2**16.
        config["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}
    return config


def prepare_cpu() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives (a minute and a compiler) on a CPU
    machine.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def require_no_code(checkpoint: Path) -> None:
    """`CheckpointError` where a file that DeepSpeed resumes from is more than tensors and its settings.

    DeepSpeed unpickles these files with ``weights_only=False``, which runs whatever code they hold. So they
    are read here first without running any; tensors stay on the disk. The folder's name stands in a file,
    which could lead elsewhere.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    named = checkpoint / "latest"
    tag = named.read_text(encoding="utf-8").strip() if named.is_file() else ""
    if not _TAG.fullmatch(tag):
        raise CheckpointError(f"{named} does not name a folder of this checkpoint; delete {checkpoint}.")
    # DeepSpeed's own classes in these files: plain values, whose construction runs nothing.
    plain = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    with torch.serialization.safe_globals(plain):
        for file in sorted((checkpoint / tag).glob("*.pt")):
            load_pickle(file)


def build_divided(
    training: Training, base: Checkpoint, model: ModelSpec, stage: StageSpec, dtype: torch.dtype
) -> Any:
    """The model of an opened checkpoint, divided; what the checkpoint lacks starts at random."""
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    gpu = torch.cuda.is_available()
    if not gpu:
        prepare_cpu()
    # DeepSpeed counts the processes of its own communication layer, which the Trainer opens only later.
    deepspeed.init_distributed("nccl" if gpu else "gloo", auto_mpi_discovery=False)
    width = training.text_width(base.config)
    config = deepspeed_config(stage, Split(1, 1, ranks.count()), width, gpu=gpu)
    active = HfDeepSpeedConfig(config)  # transformers divides what it builds as long as this lives
    if not base.by_module:  # transformers knows the names on disk, and divides what it reads
        if base.changes:
            raise UsageError(
                f"{base.path} is an adapter, which ZeRO-3 cannot merge; merge it with peft first, or give "
                "zero_stage 2."
            )
        built = base.family.build(base, BuildOptions(dtype, model.attention))
        del active
        return built
    built = training.without_weights(base.config, dtype, model.attention)
    del active
    fill(built, {name: source.read for name, source in base.tensors.items()})
    return built


def fill(model: Any, readers: Mapping[str, Callable[[], torch.Tensor]]) -> tuple[list[str], list[str]]:
    """Read tensors into a divided model, called on every process; names that were missing, and unknown ones.

    As ``load_state_dict(strict=False)`` does for a whole model.
    """
    import deepspeed

    for name, parameter in model.named_parameters():
        if name in readers:
            # Every rank enters, because gathering is a collective call; on leaving, the first rank's values
            # are divided over all.
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if ranks.rank() == 0:
                    parameter.data.copy_(readers[name]())
    known = model.state_dict().keys()
    return [name for name in known if name not in readers], [name for name in readers if name not in known]
