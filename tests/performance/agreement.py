"""viscot's own runner beside lmms-eval on the same synthetic questions, item by item (needs `make general`).

    python tests/performance/agreement.py [--items 40] [--model DIR] [--work DIR]

lmms-eval is started from its own command line, offline: once with viscot's class (cot and direct), once with
its own llava_hf on the exported model (direct). Prints each run's figures and how many items are equal; ends
with 1 where one is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from viscot_core.data.synth import write_dataset
from viscot_core.engines.open import EngineOptions
from viscot_core.lmms_eval.command import GeneralOptions
from viscot_core.lmms_eval.general import bench_general
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import Key, Prediction, read_predictions
from viscot_core.score.base import JudgeOptions
from viscot_core.score.judges import make_judge
from viscot_core.score.lmms import import_scores
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import read_scores, scores_path
from viscot_core.tasks.visual_cot.task import VisualCot

SEED = 7
BOTH = ("cot", "direct")
Lines = dict[Key, tuple[Prediction, float | None]]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--items", type=int, default=40)
    arguments.add_argument("--model", help="a folder or a name [viscot-tiny]")
    arguments.add_argument("--work", type=Path, help="where data and run folders stay [a temporary folder]")
    given = arguments.parse_args()
    with TemporaryDirectory() as temporary:
        runs = measure(given.work or Path(temporary), given.items, given.model)
        return show(runs)


def measure(work: Path, items: int, model: str | None) -> dict[str, Lines]:
    """The three runs' lines with their scores; viscot's own first."""
    data = work / "data"
    write_dataset(data, train=0, val=items, seed=SEED)
    engine = EngineOptions(model, device="cpu", dtype="fp32")
    evaluate(VisualCot(data, BOTH), engine, work / "viscot")
    score_run(work / "viscot", make_judge("exact", JudgeOptions()))
    for backend, strategies in (("viscot", BOTH), ("llava_hf", ("direct",))):
        out = work / f"lmms-eval-{backend}"
        bench_general(GeneralOptions(out, ("visual_cot",), engine, strategies, backend, data))
        import_scores(out)
    return {
        "viscot bench cot": lines(work / "viscot", "exact"),
        "lmms-eval --model viscot": lines(work / "lmms-eval-viscot", "lmms-eval"),
        "lmms-eval --model llava_hf": lines(work / "lmms-eval-llava_hf", "lmms-eval"),
    }


def lines(folder: Path, judge: str) -> Lines:
    verdicts = read_scores(scores_path(folder, judge)).verdicts
    return {p.key: (p, verdicts[p.key].outcome.score) for p in read_predictions(folder)}


def show(runs: dict[str, Lines]) -> int:
    ours, *_ = runs.values()
    whole = True
    print("| run | strategy | scored | right | boxes IoU > 0.5 | equal to viscot's |")
    print("|---|---|---:|---:|---:|---:|")
    for name, run in runs.items():
        for strategy in sorted({key[0] for key in run}):
            keys = [key for key in run if key[0] == strategy]
            equal = sum(said(run[key]) == said(ours[key]) for key in keys)
            whole = whole and equal == len(keys) == sum(key[0] == strategy for key in ours)
            print(f"| {name} | {strategy} | {' | '.join(figures(run, keys))} | {equal} |")
    return 0 if whole else 1


def said(line: tuple[Prediction, float | None]) -> tuple[object, ...]:
    prediction, score = line
    answer = (prediction.answer or "").strip()  # lmms-eval's classes leave the space after ASSISTANT:
    return prediction.status, answer, prediction.box_text, prediction.crop, score


def figures(run: Lines, keys: list[Key]) -> Iterator[str]:
    """Scored of all; the share of right answers, and of right boxes where there are any."""
    scores = [score for key in keys if (score := run[key][1]) is not None]
    overlaps = [iou for key in keys if (iou := run[key][0].iou) is not None]
    yield f"{len(scores)} of {len(keys)}"
    yield f"{fmean(scores):.3f}" if scores else ""
    yield f"{fmean(iou > 0.5 for iou in overlaps):.3f}" if overlaps else ""


if __name__ == "__main__":
    sys.exit(main())
