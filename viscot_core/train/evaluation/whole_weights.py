"""All weights on every process for a while, under ZeRO-3 too, so that each can generate at its own pace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def whole_weights(engine: Any) -> Iterator[None]:
    """``engine`` is DeepSpeed's under ZeRO-3; for any other module nothing is to be done.

    Called on every process. Under ZeRO-3 each layer gathers its weights when it runs, which all processes
    must do at the same time; texts of different length would leave them waiting for each other. So the
    weights are gathered once and the layers' hooks are off until the end.
    """
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        offload._remove_module_hooks()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()
