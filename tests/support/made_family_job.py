"""What each process of a family's multi-process test runs: the same tiny training in several modes.

``torchrun --nproc_per_node=2 made_family_job.py MODEL DATA OUT MODE...`` writes each mode's run to
``OUT/MODE``: ``ddp``, ``zero2``, ``zero3``, with ``lora-`` before it on adapters. A forward pass has one row,
so that one process often has no image while the other has. With ``packed-`` two samples are packed in one,
every second layer is recomputed, and a checkpoint is written every second step. ``VISCOT_TEST_STEPS`` is the
number of steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from made_parts import declare_torchvision

TORCHVISION = Path(sys.prefix) / "torchvision"
STEPS = int(os.environ.get("VISCOT_TEST_STEPS", "6"))


def command(processes: int, model: Path, data: Path, out: Path, modes: list[str]) -> list[str]:
    """This file under torchrun."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    return [sys.executable, *launcher, __file__, str(model), str(data), str(out), *modes]


def job(processes: int, model: Path, data: Path, out: Path, modes: list[str]) -> None:
    """Run this file under torchrun."""
    argv = command(processes, model, data, out, modes)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def main(model: Path, data: Path, out: Path, modes: list[str]) -> None:
    """Every mode, with the frameworks' global state cleared in between."""
    from accelerate.state import AcceleratorState, GradientState
    from made_rows import family_recipe

    from viscot_core.processes import die_with_parent
    from viscot_core.train import ranks, worker

    die_with_parent()
    ranks.join()
    for mode in modes:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        stage: dict[str, Any] = {"max_steps": STEPS, "per_device_batch_size": 1, "save_steps": STEPS}
        if mode.startswith("packed-"):
            stage |= {"packing": True, "per_device_batch_size": 2, "save_steps": 2}
            stage |= {"gradient_checkpointing": True, "recompute_every": 2}
        stage["zero_stage"] = int(mode[-1]) if mode[-1].isdigit() else 0
        lora = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}, "train": ["projector", "llm"]}
        recipe = family_recipe(model, data, **stage, **(lora if mode.startswith("lora-") else {}))
        (out / mode).mkdir(parents=True, exist_ok=True)
        worker.run(out / mode, recipe)
    ranks.leave()


if __name__ == "__main__":
    if TORCHVISION.is_dir():  # as conftest does for the tests' own process
        sys.path.append(str(TORCHVISION))
        _operators = declare_torchvision()
    main(*(Path(word) for word in sys.argv[1:4]), sys.argv[4:])  # type: ignore[misc]
