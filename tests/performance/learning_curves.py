"""Held-out boxes and rewards over the steps of the runs of learning.py, as a table and as an image.

    PYTHONPATH=. python tests/performance/learning_curves.py WORK [--out docs/images/learning.png]

The first and the last figure of a run are those of its ``bench cot``. Each checkpoint between them is asked
for the region of every held-out question, greedily, as ``bench cot`` asks it; what was measured stays in
WORK/curves.json and is not measured again. Rewards are those of the log: of attempts at training questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = {"grpo": "GRPO", "dpo": "DPO", "shuffled": "GRPO, rewards shuffled (control)"}
COLORS = {"grpo": "#1f6fb2", "dpo": "#c2571a", "shuffled": "#777777"}
Curves = dict[str, dict[str, float]]
"""Of each run: the share of right boxes by the step."""


def right_boxes(model: Path, data: Path) -> float:
    """The share of the benchmark's regions that the model names with an IoU above 0.5."""
    from viscot_core.boxes.geometry import iou
    from viscot_core.boxes.registry import codec
    from viscot_core.engines.open import EngineOptions, open_engine
    from viscot_core.policies.base import Question
    from viscot_core.policies.two_turn import TwoTurn
    from viscot_core.policies.wording import Wording
    from viscot_core.rollout import run
    from viscot_core.runs.opening import open_items
    from viscot_core.tasks.visual_cot.task import VisualCot
    from viscot_core.train.preferences.looks import FirstLook

    engine = open_engine(EngineOptions(model=str(model), batch_size=32))
    first = FirstLook(TwoTurn(Wording(codec("viscot")), box_tokens=40))
    found = []
    items = VisualCot(data).load().items
    for start in range(0, len(items), 32):
        asked = [(one.item, one.view) for one in open_items(items[start : start + 32]) if one.view]
        answers = run(first, engine, [Question(item.question, (view,)) for item, view in asked])
        for (item, _), answer in zip(asked, answers, strict=True):
            assert item.box is not None and answer.error is None
            found.append(bool(answer.looks) and iou(answer.looks[0].box_pixels, item.box) > 0.5)
    return sum(found) / len(found)


def benched(folder: Path) -> float:
    """The same share, of a run folder of ``bench cot``."""
    from viscot_core.runs.records import read_predictions

    hits = [
        one.iou > 0.5 for one in read_predictions(folder) if one.strategy == "cot" and one.iou is not None
    ]
    return sum(hits) / len(hits)


def runs_in(work: Path) -> list[Path]:
    """The runs that are trained and measured."""
    found = (path for path in work.iterdir() if path.name.partition("-")[0] in NAMES)
    return sorted(path for path in found if (work / "bench" / path.name / "done").is_file())


def measured(work: Path) -> Curves:
    """The curves of all runs in the folder; only what is new is asked."""
    kept = work / "curves.json"
    curves: Curves = json.loads(kept.read_text()) if kept.is_file() else {}
    for run in runs_in(work):
        curve = curves.setdefault(run.name, {})
        places = {int(path.name.partition("-")[2]): path for path in run.glob("stages/*/checkpoint-*")}
        for step, model in sorted(places.items()):
            if str(step) not in curve:
                last = step == max(places)
                curve[str(step)] = (
                    benched(work / "bench" / run.name) if last else right_boxes(model, work / "data")
                )
        curve["0"] = benched(work / "bench/before")
        kept.write_text(json.dumps(curves, indent=1))
    return curves


def rewards(work: Path, name: str) -> list[float]:
    """The IoU reward of each step of a run, a mean over five steps; nothing of a run without rewards."""
    found = []
    for log in (work / name).glob("stages/*/log.jsonl"):
        rows = map(json.loads, log.read_text().splitlines())
        found = [row["reward_iou"] for row in rows if "reward_iou" in row]
    return [
        sum(found[max(0, at - 4) : at + 1]) / len(found[max(0, at - 4) : at + 1]) for at in range(len(found))
    ]


def drawn(curves: Mapping[str, Mapping[str, float]], work: Path, out: Path) -> None:
    """One line a run, one colour an arm: held-out boxes on the left, rewards of the attempts on the right."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (boxes, earned) = plt.subplots(1, 2, figsize=(9.2, 3.6), dpi=100)
    told = set()
    for name, curve in curves.items():
        arm = name.partition("-")[0]
        steps = sorted(map(int, curve))
        look = {"color": COLORS[arm], "linewidth": 1.4, "label": None if arm in told else NAMES[arm]}
        told.add(arm)
        boxes.plot(steps, [100 * curve[str(step)] for step in steps], marker="o", markersize=3, **look)
        if values := rewards(work, name):
            earned.plot(range(1, len(values) + 1), values, **{**look, "label": None})
    boxes.set(xlabel="optimizer steps", ylabel="held-out boxes right (IoU > 0.5), %", ylim=(0, 100))
    earned.set(xlabel="optimizer steps", ylabel="IoU reward (mean of 5 steps)")
    boxes.legend(frameon=False, loc="lower right", fontsize=8)
    for axes in (boxes, earned):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Software": None})


def main() -> None:
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/learning.png")
    given = parser.parse_args()
    curves = measured(given.work)
    for name, curve in curves.items():
        steps = sorted(map(int, curve))
        print(name, ", ".join(f"{step}: {100 * curve[str(step)]:.1f} %" for step in steps))
    drawn(curves, given.work, given.out)


if __name__ == "__main__":
    main()
