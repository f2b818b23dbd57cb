"""Held-out box accuracy over the steps of the runs of learning.py, as a table and as an image.

    PYTHONPATH=. python tests/performance/learning_curves.py WORK [--out docs/images/learning.png]

Each kept checkpoint is asked for the region of every held-out question, greedily, as ``bench cot`` asks it;
what was measured stays in WORK/curves.json and is not measured again. A run ends where its last model is.
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


def measured(work: Path) -> Curves:
    """The curves of all runs in the folder; only what is new is asked."""
    kept = work / "curves.json"
    curves: Curves = json.loads(kept.read_text()) if kept.is_file() else {}
    for run in sorted(path for path in work.iterdir() if path.name.partition("-")[0] in NAMES):
        if not (run / "model.safetensors").is_file():
            continue
        curve = curves.setdefault(run.name, {})
        places = {"0": work / "weak"}
        places |= {path.name.partition("-")[2]: path for path in run.glob("stages/*/checkpoint-*")}
        for step, model in places.items():
            if step in curve:
                continue
            same = [other[step] for other in curves.values() if step == "0" and step in other]
            curve[step] = same[0] if same else right_boxes(model, work / "data")
            kept.write_text(json.dumps(curves, indent=1))
    return curves


def drawn(curves: Mapping[str, Mapping[str, float]], out: Path) -> None:
    """One line a run, one colour an arm; the last figure of each stands at its end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 3.8), dpi=100)
    told = set()
    for name, curve in curves.items():
        arm = name.partition("-")[0]
        steps = sorted(map(int, curve))
        values = [100 * curve[str(step)] for step in steps]
        label = None if arm in told else NAMES[arm]
        told.add(arm)
        axes.plot(steps, values, color=COLORS[arm], marker="o", markersize=3, linewidth=1.4, label=label)
    axes.set(xlabel="optimizer steps", ylabel="held-out boxes right (IoU > 0.5), %", ylim=(0, 100))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
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
    drawn(curves, given.out)


if __name__ == "__main__":
    main()
