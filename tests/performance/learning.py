"""Do rewards and pairs make a weakened viscot-tiny look better? Three seeds, a control, paired intervals.

    PYTHONPATH=. python tests/performance/learning.py WORK [--seeds 1,2,3] [--arms grpo,shuffled,dpo]
        [--set grpo.learning_rate=2e-5] [--start CHECKPOINT]

The settings of the training are those of the recipes tiny-grpo and tiny-dpo, without their evaluations.

Every step leaves its result in WORK and is not done again: the same command goes on after a kill (training
from its last checkpoint). Delete ``WORK/<arm>-<seed>`` to try an arm with other settings.

1. data (synthetic), 2. a weaker start: the bundled model goes on learning on boxes that were moved at random
(``--start`` names another checkpoint instead), 3. ``bench cot`` of it, 4. each arm and seed: prefs and
``prefer``, or ``reinforce`` with rewards, or with rewards dealt out at random (the control), 5. ``bench cot``
of each, 6. the table: box accuracy at IoU > 0.5 after minus before, item by item, with its 95 % interval
over images, and what the log of each run says. Held-out scenes are never trained on (``data synth``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ARMS = ("grpo", "shuffled", "dpo")
WEAK = """\
name: viscot-tiny-weak
seed: 7
model: {{checkpoint: viscot-tiny, template: tiny, turn_tokens: plain, feature_layer: -1, attention: sdpa}}
report_to: []
data: {{preflight: 8}}
stages:
  - {{kind: finetune, files: [weak.json], train: [projector, llm], max_steps: {steps}, global_batch_size: 32,
     learning_rate: 1.0e-4, schedule: constant, max_length: 512, precision: fp32, group_by: none, workers: 2,
     gradient_checkpointing: false, save_steps: 1000}}
"""


def viscot(*words: str | Path, log: Path) -> None:
    """One command line in a process of its own; its output is added to ``log``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        argv = [sys.executable, "-m", "viscot_cli", *map(str, words)]
        done = subprocess.run(
            argv, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, check=False
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"viscot {' '.join(map(str, words))} ended with {done.returncode}:\n{tail}")


def weak_rows(source: Path, target: Path, spread: float) -> None:
    """Rows that ask for a box, and boxes that were moved by up to ``spread`` of the square's side."""
    from viscot_core.boxes.geometry import Box, BoxStatus, format_box, parse_box
    from viscot_core.data.faults import asks_for_box

    rng, rows = random.Random(7), []
    for row in json.loads(source.read_text()):
        turns = row["conversations"]
        parsed = parse_box(turns[1]["value"])
        if not asks_for_box(turns[0]["value"]) or parsed.status is BoxStatus.UNPARSABLE:
            continue
        x, y = (rng.uniform(-spread, spread) for _ in range(2))
        box = parsed.box
        moved = Box(box.x0 + x, box.y0 + y, box.x1 + x, box.y1 + y).clip((1, 1))
        if moved.area <= 0:
            continue
        # Only the box is learned anew: the crop and the answer of the row would not go with it.
        image = row["image"][0] if isinstance(row["image"], list) else row["image"]
        said = [turns[0], {"from": "gpt", "value": format_box(moved)}]
        rows.append({"id": len(rows), "image": image, "conversations": said})
    target.write_text(json.dumps(rows))


class Study:
    """The folder WORK and how each step is done once."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.work = given, Path(given.work).absolute()
        self.data = self.work / "data"

    def prepare(self) -> None:
        """Data and the weaker start."""
        given, data = self.given, self.data
        if not data.is_dir():
            size = ("--train", given.train, "--val", given.val)
            viscot("data", "synth", "--out", data, *map(str, size), "--seed", "7", log=self.log("data"))
        if given.start is None and not (self.weak / "model.safetensors").is_file():
            weak_rows(data / "train.json", data / "weak.json", given.spread)
            recipe = self.work / "weak.yaml"
            recipe.write_text(WEAK.format(steps=given.weak_steps))
            go_on = ("--resume",) if (self.weak / "recipe.yaml").exists() else ()
            viscot(
                "train", "--recipe", recipe, "--data", data, "--out", self.weak, *go_on, log=self.log("weak")
            )
        self.bench(self.weak, "before")

    @property
    def weak(self) -> Path:
        return Path(self.given.start).absolute() if self.given.start else self.work / "weak"

    def log(self, name: str) -> Path:
        return self.work / "logs" / f"{name}.log"

    def bench(self, model: Path, name: str) -> None:
        """``bench cot`` of a model into ``WORK/bench/NAME``; it goes on by itself where it was stopped."""
        out = self.work / "bench" / name
        if not (out / "done").exists():
            viscot("bench", "cot", "--data", self.data, "--model", model, "--out", out, log=self.log(name))
            (out / "done").touch()

    def arm(self, arm: str, seed: int) -> None:
        """Train one arm with one seed, and measure it."""
        name, run = f"{arm}-{seed}", self.work / f"{arm}-{seed}"
        kind = "dpo" if arm == "dpo" else "grpo"
        if not (run / "model.safetensors").is_file():
            sets = [f"model.checkpoint={self.weak}", f"seed={seed}", "report_to=[]"]
            # Every checkpoint is kept for learning_curves.py, which asks each of them afterwards.
            sets += [
                f"stages.{kind}.{text}" for text in ("eval=null", "save_steps=10", "keep_checkpoints=99")
            ]
            sets += [f"stages.{text}" for text in self.given.set if text.startswith(f"{kind}.")]
            if arm == "dpo":
                prefs = self.data / f"prefs-{seed}.jsonl"
                if not prefs.is_file():
                    viscot("data", "prefs", "--model", self.weak, "--data", self.data, "--boxes", "6",
                           "--temperature", "1.0", "--reward", "iou", "--seed", str(10_000 * seed),
                           "--max-new-tokens", "40", "--limit", str(self.given.pairs), "--batch-size", "48",
                           "--out", prefs, log=self.log(name))  # fmt: skip
                sets.append(f"stages.dpo.files=[{prefs.name}]")
            else:
                sets.append(f"stages.grpo.reinforce.shuffle_rewards={str(arm == 'shuffled').lower()}")
            command = "prefer" if arm == "dpo" else "reinforce"
            words = ["--recipe", f"tiny-{kind}", "--data", str(self.data), "--out", str(run)]
            words += [word for text in sets for word in ("--set", text)]
            words += ["--resume"] if (run / "recipe.yaml").exists() else []
            viscot(command, *words, log=self.log(name))
        self.bench(run, name)

    def table(self, names: Sequence[str]) -> str:
        """Markdown: accuracy before and after, the paired difference, and curves' ends."""
        before = self.hits("before")
        lines = [
            "| run | boxes right | after - before (95 %) | p | mean IoU | minutes |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        start = [hit for hit, _, _ in before.values()]
        ious = [iou for _, iou, _ in before.values()]
        lines.append(f"| before | {share(start)} | | | {sum(ious) / len(ious):.3f} | |")
        lines += [self._line(name, before) for name in names]
        return "\n".join(lines)

    def _line(self, name: str, before: dict[str, tuple[float, float, str]]) -> str:
        import numpy as np

        from viscot_core.report.intervals import ClusterSample, paired_test

        after = self.hits(name)
        keys = sorted(before.keys() & after.keys())
        changes = np.array([after[key][0] - before[key][0] for key in keys])
        test = paired_test(
            [ClusterSample(changes, tuple(before[k][2] for k in keys))], np.random.default_rng(0)
        )
        low, high = (test.interval.low, test.interval.high) if test.interval else (float("nan"),) * 2
        ious = [after[key][1] for key in keys]
        stamps = [path.stat().st_mtime for path in self.work.glob(f"{name}/stages/*/log.jsonl")]
        began = [path.stat().st_mtime for path in self.work.glob(f"{name}/recipe.yaml")]
        minutes = f"{(stamps[0] - began[0]) / 60:.1f}" if stamps and began else ""
        right, iou = share([after[key][0] for key in keys]), sum(ious) / len(ious)
        change = f"{100 * test.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        return f"| {name} | {right} | {change} | {test.p:.4f} | {iou:.3f} | {minutes} |"

    def hits(self, name: str) -> dict[str, tuple[float, float, str]]:
        """Of each item: whether its box is right (IoU > 0.5), its IoU, its image."""
        from viscot_core.runs.records import read_predictions

        found = {}
        for one in read_predictions(self.work / "bench" / name):
            if one.strategy == "cot" and one.iou is not None:
                found[f"{one.dataset}:{one.question_id}"] = (float(one.iou > 0.5), one.iou, one.image)
        return found


def share(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / max(1, len(values)):.1f} % of {len(values)}"


def options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("work")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--pairs", type=int, default=300, help="items that prefs looks at")
    parser.add_argument("--train", type=int, default=1200, help="scenes to train on")
    parser.add_argument("--val", type=int, default=250, help="held-out scenes")
    parser.add_argument("--weak-steps", type=int, default=60)
    parser.add_argument(
        "--spread", type=float, default=0.14, help="how far boxes are moved, of the square's side"
    )
    parser.add_argument("--start", help="a weaker checkpoint that exists already")
    parser.add_argument(
        "--set", action="append", default=[], help="grpo.learning_rate=2e-5, dpo.preference.beta=0.3"
    )
    return parser.parse_args()


def main() -> None:
    sys.path.insert(0, str(ROOT))
    given = options()
    study, began = Study(given), time.monotonic()
    study.prepare()
    print(study.table([]), flush=True)
    todo = [(arm, int(seed)) for seed in given.seeds.split(",") for arm in given.arms.split(",")]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda one: study.arm(*one), todo))
    text = study.table([f"{arm}-{seed}" for arm, seed in sorted(todo)])
    (study.work / "table.md").write_text(f"{text}\n")
    print(text, f"\n{(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
