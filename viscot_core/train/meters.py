"""A stage's meter, with the floating-point operations its tokens cost."""

from __future__ import annotations

import torch

from viscot_core.train import estimates
from viscot_core.train.batch import Split
from viscot_core.train.schema import StageSpec
from viscot_core.train.shapes import shape_of_config
from viscot_core.train.start import Run
from viscot_core.train.throughput import Meter


def meter_for(state: Run, stage: StageSpec, split: Split) -> Meter:
    """Counts samples and tokens; MFU too where the GPU is known (counted per token at 1,000 tokens a
    sample).
    """
    if not torch.cuda.is_available():
        return Meter(split.total, split.processes)
    shape = shape_of_config(state.model.config)
    typical = 1000
    flops = estimates.flops_per_sample(shape, stage, typical, 1.0) / typical
    return Meter(split.total, split.processes, flops, torch.cuda.get_device_name())
