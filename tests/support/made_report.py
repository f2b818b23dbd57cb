"""A run to report on, and its report."""

from __future__ import annotations

from pathlib import Path

from made_runs import prediction, write_run
from PIL import Image

from viscot_core.boxes.geometry import Box, Frame, crop_window
from viscot_core.report.choices import Images
from viscot_core.report.html import write_report
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import read_scored_run
from viscot_core.runs.records import Prediction, RunInfo
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run

NASTY = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>\u2028"


def make_run(folder: Path, items: int, *, images: int = 12) -> Path:
    """A run with images on disk, boxes, crops, failures and words that try to be markup."""
    data = folder / "data"
    data.mkdir(parents=True)
    size = (640, 480)
    for number in range(min(items, images)):
        Image.new("RGB", size, (40 + 15 * number, 90, 160)).save(data / f"{number} ü#.jpg")
    truth = Box(300, 200, 420, 290, Frame.ORIGINAL)
    mine = Box(320, 210, 440, 300, Frame.ORIGINAL)
    rows: list[Prediction] = []
    for number in range(items):
        for strategy in ("cot", "direct"):
            failed = number % 10 == 9
            rows.append(
                prediction(
                    strategy=strategy,
                    dataset=("docvqa", "cub")[number % 2],
                    question_id=number,
                    image=f"{number % images} ü#.jpg" if number % 7 else "gone.jpg",
                    question=f"What is on card {number}?",
                    status="failed" if failed else "done",
                    error="the server stopped" if failed else None,
                    answer=None if failed else ("42" if number % 3 else NASTY),
                    width=size[0],
                    height=size[1],
                    box=mine.to_square(size).coords,
                    box_gt=truth.to_square(size).coords,
                    box_status="unparsable" if number % 11 == 0 else "ok",
                    crop=crop_window(mine, size),
                    iou=0.6 if number % 2 else 0.2,
                )
            )
    run = write_run(folder / "run", rows)
    info = RunInfo.model_validate_json((run / "run.json").read_bytes())
    info.data = str(data)
    info.save(run)
    score_run(run, OfflineJudge("exact"))
    return run


def report_of(run: Path, target: Path, images: Images) -> Path:
    write_report(target, build_report([read_scored_run(run)], ReportOptions(compare="paper")), images=images)
    return target
