"""Weights under ZeRO-3: each process holds its share of every tensor; the first one alone reads the files.

Built whole in every process, a 13B model takes 8 x 25 GB of a machine's memory before DeepSpeed divides it.
Here its modules are divided while they are made (transformers and DeepSpeed do that), and every tensor is
then gathered, filled by the first process and divided again, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from viscot_core.families.checkpoint import Checkpoint
from viscot_core.train import ranks, zero
from viscot_core.train.batch import Split
from viscot_core.train.schema import ModelSpec, StageSpec


def divides(stage: StageSpec) -> bool:
    """Whether the weights of ``stage`` are divided over this job's processes from the start."""
    return stage.zero_stage == 3 and ranks.count() > 1


def build_divided(base: Checkpoint, model: ModelSpec, stage: StageSpec, dtype: torch.dtype) -> Any:
    """The model of an opened checkpoint, divided; what the checkpoint lacks starts at random."""
    import deepspeed
    from transformers import LlavaForConditionalGeneration
    from transformers.integrations import HfDeepSpeedConfig

    gpu = torch.cuda.is_available()
    if not gpu:
        zero.prepare_cpu()
    # DeepSpeed counts the processes of its own communication layer, which the Trainer opens only later.
    deepspeed.init_distributed("nccl" if gpu else "gloo", auto_mpi_discovery=False)
    width = int(base.config.text_config.hidden_size)
    config = zero.deepspeed_config(stage, Split(1, 1, ranks.count()), width, gpu=gpu)
    told = HfDeepSpeedConfig(config)  # transformers divides what it builds as long as this lives
    built = LlavaForConditionalGeneration._from_config(
        base.config, dtype=dtype, attn_implementation=model.attention
    )
    del told
    fill(built, {name: source.read for name, source in base.tensors.items()})
    return built


def is_divided(model: Any) -> bool:
    """Whether ZeRO-3 has taken the parameters of ``model`` apart."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def fill(model: Any, readers: Mapping[str, Callable[[], torch.Tensor]]) -> tuple[list[str], list[str]]:
    """Read tensors into a divided model, called on every process; names that were missing, and unknown ones.

    As ``load_state_dict(strict=False)`` does for a whole model.
    """
    import deepspeed

    for name, parameter in model.named_parameters():
        if name in readers:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if ranks.rank() == 0:
                    parameter.data.copy_(readers[name]())
    known = model.state_dict().keys()
    return [name for name in known if name not in readers], [name for name in readers if name not in known]
