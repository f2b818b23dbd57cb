"""How fast ``viscot stats`` is: 10,000 items, 10,000 resamples, worked out from the files of a run folder.

Run it: ``python tests/performance/stats.py``. Prints one JSON object per kind of scores: ``judge`` (the
five levels judges use) and ``distinct`` (every score different, the worst case). Reading the files is
part of the time.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from made_runs import prediction, write_run

from viscot_core.report.choices import Format
from viscot_core.report.names import DATASETS
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import read_scored_run
from viscot_core.report.stats_types import StatsOptions
from viscot_core.score.verdicts import JudgeIdentity, Outcome, ScoreLog, State, Verdict, pair_of, scores_path

ITEMS = 10_000
STRATEGIES = ("cot", "direct")


def make(folder: Path, distinct: bool, items: int = ITEMS) -> Path:
    """A scored run of ``items`` predictions: two strategies over the paper's twelve data sets."""
    rng = random.Random(0)
    rows = [
        prediction(
            strategy=STRATEGIES[number % 2],
            dataset=DATASETS[number // 2 % 12].key,
            question_id=number // 2,
            question=f"What is {number}?",
            iou=rng.random(),
        )
        for number in range(items)
    ]
    run = write_run(folder / "run", rows)
    judge = JudgeIdentity.now("made-up", "made-up", None, 0.0)
    with ScoreLog(scores_path(run, "made-up"), judge) as log:
        for row in rows:
            pair = pair_of(row)
            assert pair
            score = rng.random() if distinct else rng.choice([0, 0.25, 0.5, 0.8, 1])
            outcome = Outcome(State.SCORED, score, reply=f"score: {score}")
            log.append([Verdict(row.strategy, row.dataset, row.question_id, outcome, pair.digest())])
    return run


def measure(distinct: bool, resamples: int = 10_000) -> dict[str, float | str]:
    """Wall and CPU seconds of reading, working out and printing."""
    with tempfile.TemporaryDirectory() as folder:
        run = make(Path(folder), distinct)
        wall, cpu = time.perf_counter(), time.process_time()
        report = build_report(
            [read_scored_run(run)], ReportOptions(StatsOptions(resamples=resamples), compare="paper")
        )
        report.to_text(Format.TABLE)
        return {
            "scores": "distinct" if distinct else "judge",
            "items": ITEMS,
            "resamples": resamples,
            "wall_s": round(time.perf_counter() - wall, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
        }


if __name__ == "__main__":
    for kind in (False, True):
        print(json.dumps(measure(kind)))
