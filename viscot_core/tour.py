"""The first minute with viscot: three bundled images, then a small benchmark on newly made images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from viscot_core.errors import DataError

if TYPE_CHECKING:
    from viscot_core.ask import VisualCoT
    from viscot_core.infer.asking import InferResult
    from viscot_core.report.report_data import ReportData
    from viscot_core.runs.loop import Progress

EXAMPLES = Path(__file__).resolve().parent / "examples"
STRATEGIES = ("cot", "direct", "gt-box")
MORE = (
    "viscot data synth --out data/held-out --train 0 --val 500",
    "viscot bench cot --data data/held-out --strategy cot,direct,gt-box --out results/held-out",
    "viscot score results/held-out --judge exact",
    "viscot stats results/held-out",
)
"""The same benchmark on 500 questions, about a minute on a CPU."""
SEED = 314
"""Seed of the benchmark's scenes, which are held out: none is a training scene."""


@dataclass(frozen=True, slots=True)
class Example:
    """A bundled image, a question about it and the true answer."""

    image: Path
    question: str
    answer: str


def examples(folder: Path = EXAMPLES) -> list[Example]:
    """The bundled examples: ``questions.jsonl`` names the images beside it.

    Raises:
        DataError: this installation does not have them.
    """
    try:
        lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [Example(folder / row["image"], row["question"], row["answer"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The example images of {folder} are damaged: {error}.") from error


def ask_examples(cot: VisualCoT, out: Path) -> Iterator[tuple[Example, InferResult, Path]]:
    """Ask about each example; box, crop and answer are drawn to a PNG of the same name under ``out``."""
    from viscot_core.infer.asking import ask_items
    from viscot_core.infer.items import InferItem
    from viscot_core.infer.saving import save_drawing

    found = examples()
    items = [InferItem(example.image, example.question) for example in found]
    for example, result in zip(found, ask_items(cot, items, batch_size=1), strict=True):
        target = out / f"{example.image.stem}.png"
        if result.answer is not None:
            save_drawing(result, target)
        yield example, result, target


def small_bench(model: str | None, questions: int, *, progress: Progress | None = None) -> ReportData:
    """Make ``questions`` scenes in a temporary folder, run three strategies, score exactly; the tables."""
    from viscot_core.data.synth import write_dataset
    from viscot_core.engines.open import EngineOptions
    from viscot_core.report.report_data import ReportOptions, build_report
    from viscot_core.report.scored_run import read_scored_run
    from viscot_core.runs.evaluate import evaluate
    from viscot_core.score.base import JudgeOptions
    from viscot_core.score.judges import make_judge
    from viscot_core.score.scoring import score_run
    from viscot_core.tasks.visual_cot.task import VisualCot

    with TemporaryDirectory(prefix="viscot-tour-") as name:
        data, run = Path(name) / "data", Path(name) / "tour"
        write_dataset(data, train=0, val=questions, seed=SEED)
        evaluate(VisualCot(data, STRATEGIES), EngineOptions(model=model), run, progress=progress)
        score_run(run, make_judge("exact", JudgeOptions()))
        return build_report([read_scored_run(run)], ReportOptions())
