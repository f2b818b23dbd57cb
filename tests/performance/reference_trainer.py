"""The reference's trainer and viscot's on the same tiny weights, rows and batches: losses, steps a second.

    python tests/performance/reference_trainer.py CHECKOUT --python REFERENCE/bin/python [--rounds 3]

CHECKOUT is a folder with the reference's package ``llava`` (github.com/deepcs233/Visual-CoT); the Python
given is one that it runs in (transformers 4.37.2, numpy < 2, accelerate 0.27; torch may be today's). The
golden model and rows of ``--shared`` are trained as ``golden_train_run_stage2.json`` says: batches of 4,
fp32, all weights learn. Each side runs in a process of its own on one thread; the reference goes first,
and viscot takes the batches that it drew; so alternately, ``--rounds`` times. Prints one JSON object:
losses of the first steps and the largest difference of all, and steps a second of wall and of CPU time,
the first two steps left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BATCH, LEFT_OUT = 4, 2
RUN = "golden_train_run_stage2.json"


# -- one side, in a process of its own -----------------------------------------------------------------------


def reference_side(checkout: Path, golden: Path, out: Path, epochs: int) -> dict[str, Any]:
    """The reference's ``train()`` with the golden run's own options."""
    sys.path.insert(0, str(checkout))
    import torch
    import transformers
    from transformers import trainer as hf

    _let_it_start(transformers, hf)
    from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
    from llava.train import train as module

    def in_fp32(self: Any, dtype: Any = None, **moved: Any) -> Any:
        """It asks for fp16 where bf16 is off; the golden run was fp32."""
        return torch.nn.Module.to(self, **moved)

    CLIPVisionTower.to = in_fp32
    # `Optional[List[str]]` there: a list, with which it cannot find the tower.
    module.ModelArguments.__dataclass_fields__["vision_tower"].type = str
    order: list[int] = []
    read = module.LazySupervisedDataset.__getitem__

    def noted(self: Any, index: int) -> Any:
        order.append(int(index))
        return read(self, index)

    module.LazySupervisedDataset.__getitem__ = noted
    steps, losses = Clock(), []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.tick()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    begun = hf.Trainer.__init__

    def watched(self: Any, *given: Any, **named: Any) -> None:
        begun(self, *given, **{**named, "callbacks": [Watch()]})

    hf.Trainer.__init__ = watched
    given = json.loads((golden / RUN).read_text(encoding="utf-8"))["argv"]
    given[given.index("--output_dir") + 1] = str(out / "reference")
    given[given.index("--num_train_epochs") + 1] = str(epochs)
    os.chdir(golden)  # its paths are relative
    sys.argv = ["train.py", *given]
    module.train()
    return {"losses": losses, "order": order, **steps.rates()}


def _let_it_start(transformers: Any, hf: Any) -> None:
    """What keeps the reference from starting beside transformers 4.37: names taken, and one that is gone."""
    for kind in (transformers.AutoConfig, transformers.AutoModelForCausalLM):
        register = kind.register
        kind.register = lambda *given, register=register, **named: register(*given, exist_ok=True)
    if not hasattr(hf, "ShardedDDPOption"):
        hf.ShardedDDPOption = type("ShardedDDPOption", (), {"SIMPLE": "simple"})
        hf.Trainer.sharded_ddp = None


def our_side(golden: Path, out: Path, epochs: int, order: list[int]) -> dict[str, Any]:
    """The worker of ``viscot train`` on the batches of ``order``."""
    sys.path[:] = [str(ROOT), *sys.path, str(ROOT / "tests/support")]
    import numpy as np
    from made_training import golden_recipe

    from viscot_core.train import worker
    from viscot_core.train.loop import stage
    from viscot_core.train.loop.throughput import Meter

    settings = {"epochs": epochs, "save_steps": 10**6, "log_steps": 1}
    recipe = golden_recipe(golden, **settings)
    recipe = recipe.model_copy(update={"stages": (recipe.stage("finetune"),)})
    stage.run_order = lambda *_: np.array(order)
    steps, read = Clock(), Meter.read

    def clocked(meter: Meter, step: int) -> dict[str, float]:
        steps.tick()
        return read(meter, step)

    Meter.read = clocked  # type: ignore[method-assign]
    worker.run(out / "viscot", recipe)
    (log,) = (out / "viscot/stages").glob("*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {"losses": [line["loss"] for line in lines if "loss" in line], **steps.rates()}


class Clock:
    """When each step ended, in wall and CPU seconds."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def rates(self) -> dict[str, float]:
        (wall, cpu), (last_wall, last_cpu) = self.ends[LEFT_OUT - 1], self.ends[-1]
        count = len(self.ends) - LEFT_OUT
        return {"steps_s": count / (last_wall - wall), "steps_cpu_s": count / (last_cpu - cpu)}


# -- both ----------------------------------------------------------------------------------------------------


def side(python: str, name: str, given: argparse.Namespace, out: Path, order: Path | None) -> dict[str, Any]:
    out.mkdir()
    argv = [python, str(Path(__file__).resolve()), str(given.checkout), "--shared", str(given.shared)]
    argv += ["--epochs", str(given.epochs), "--side", name, "--work", str(out)]
    argv += ["--order", str(order)] if order else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    if ran.returncode:
        raise SystemExit(f"{name} did not run:\n{ran.stdout[-1000:]}{ran.stderr[-3000:]}")
    found: dict[str, Any] = json.loads((out / "found.json").read_text(encoding="utf-8"))
    return found


def compared(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = [abs(a - b) for a, b in zip(theirs[0]["losses"], ours[0]["losses"], strict=True)]
    found: dict[str, Any] = {
        "steps": len(pairs),
        "losses": {"reference": theirs[0]["losses"][:8], "viscot": ours[0]["losses"][:8]},
        "largest_difference_of_8": round(max(pairs[:8]), 5),
        "largest_difference": round(max(pairs), 5),
    }
    for what in ("steps_s", "steps_cpu_s"):
        ratios = [b[what] / a[what] for a, b in zip(theirs, ours, strict=True)]
        found[what] = {
            "reference": [round(one[what], 2) for one in theirs],
            "viscot": [round(one[what], 2) for one in ours],
            "ratio": round(statistics.median(ratios), 2),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder that holds the reference's package llava")
    parser.add_argument("--python", default=sys.executable, help="a Python in which the reference runs")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--epochs", type=int, default=5, help="of 8 steps each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("reference", "viscot"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--order", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    golden = (given.shared / "golden").resolve()
    if given.side:
        if given.side == "reference":
            found = reference_side(given.checkout.resolve(), golden, given.work.resolve(), given.epochs)
        else:
            order = json.loads(given.order.read_text(encoding="utf-8"))["order"]
            found = our_side(golden, given.work.resolve(), given.epochs, order)
        (given.work / "found.json").write_text(json.dumps(found), encoding="utf-8")
        return
    theirs, ours = [], []
    with tempfile.TemporaryDirectory() as work:
        for number in range(given.rounds):
            folder = Path(work) / f"reference{number}"
            theirs.append(side(given.python, "reference", given, folder, None))
            found_file = folder / "found.json"
            ours.append(side(sys.executable, "viscot", given, Path(work) / f"viscot{number}", found_file))
    print(json.dumps(compared(theirs, ours), indent=1))


if __name__ == "__main__":
    main()
