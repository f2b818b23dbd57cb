"""A run folder with its scores: each item with its verdict, the planned numbers, and what is excluded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from viscot_core.errors import UsageError
from viscot_core.report.names import canonical
from viscot_core.runs.records import Prediction, RunInfo, read_predictions, read_run
from viscot_core.score.verdicts import (
    JudgeIdentity,
    Outcome,
    Scores,
    State,
    check_belongs,
    pair_of,
    read_scores,
    score_files,
    scores_path,
)

BOX_STRATEGIES = ("cot", "refcoco", "zoom")
"""Strategies in which the model predicts the box, of a talk the last one; the others receive one."""

EXCLUDED_REASONS = {
    "no image": "skipped by --skip-missing",
    "not run": "the benchmark has not reached it",
    "failed": "the engine could not answer: an unreadable image, a prompt too long",
    "cut off": "the token limit ended the reply before the first word of its answer",
    "nothing to judge": "the item has no answer, or no reference answer to compare with",
    "not judged": "the judge has not been asked",
    "pending": "the judge was asked and no reply came",
    "unscored": "the judge's reply contains no single score",
    "judge cut off": "the token limit ended the judge's reply before its score",
    "refused": "the judge refuses the item (a content filter)",
}
"""Why an item is in no mean, in the order of processing."""


_VERDICTS = {
    State.PENDING: "pending",
    State.UNSCORED: "unscored",
    State.TRUNCATED: "judge cut off",
    State.FAILED: "refused",
}


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One prediction and the judge's verdict on it (None: no verdict)."""

    prediction: Prediction
    outcome: Outcome | None

    @property
    def strategy(self) -> str:
        return self.prediction.strategy

    @property
    def dataset(self) -> str:
        return canonical(self.prediction.dataset)

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the question across strategies and runs."""
        return (self.dataset, str(self.prediction.question_id))

    @property
    def unit(self) -> Hashable:
        """What the item is a draw of: questions about one image are not independent."""
        return self.prediction.image or self.key

    @property
    def score(self) -> float | None:
        return self.outcome.score if self.outcome and self.outcome.state is State.SCORED else None

    @property
    def iou(self) -> float | None:
        """IoU of predicted and annotated box; None if there is nothing to compare, 0 if unparsable.

        A model family that points instead of drawing a box has no IoU, and so no box accuracy.
        """
        p = self.prediction
        if not p.done or self.strategy not in BOX_STRATEGIES or p.box_gt is None:
            return None
        return p.iou

    @property
    def box_share(self) -> float | None:
        """Area of the annotated box as a share of the image (the paper's R), 0..1."""
        p = self.prediction
        if p.box_gt is None:
            return None
        x0, y0, x1, y1 = p.box_gt
        # The box is in shares of the padded square: its area times side**2 is in pixels.
        side = max(p.width, p.height)
        return max(0.0, x1 - x0) * max(0.0, y1 - y0) * side * side / (p.width * p.height)


@dataclass(frozen=True)
class ScoredRun:
    """A run folder read into memory."""

    name: str
    path: Path
    info: RunInfo
    judge: JudgeIdentity | None
    items: tuple[ScoredItem, ...]
    planned: dict[tuple[str, str], int]
    """``(strategy, dataset) -> items`` that the benchmark planned: the N of every "n of N"."""

    @property
    def strategies(self) -> list[str]:
        order = ("cot", "direct", "gt-box", "random-box", "center-box", "no-image", "refcoco")
        names = {s for s, _ in self.planned}
        return [s for s in order if s in names] + sorted(names - set(order))

    @cached_property
    def has_answers(self) -> bool:
        """Whether a judge can score the run: False if the model only names boxes (RefCOCO)."""
        texts = (item.prediction for item in self.items)
        return not self.items or any(p.answer is not None or p.reference is not None for p in texts)

    @property
    def datasets(self) -> set[str]:
        return {d for _, d in self.planned}


def read_scored_run(path: Path, judge: str | None = None) -> ScoredRun:
    """Read predictions and the scores of one judge: ``judge``, or the only one that scored the run.

    Raises:
        UsageError: several judges scored the run and none is named, or the named one did not.
        DataError: the folder is not a run folder, or the scores belong to another run.
    """
    info = read_run(path)
    predictions = read_predictions(path)
    scores = _pick_scores(path, judge)
    if scores:
        check_belongs(scores, predictions)
    verdicts = scores.verdicts if scores else {}
    items = tuple(ScoredItem(p, v.outcome if (v := verdicts.get(p.key)) else None) for p in predictions)
    return ScoredRun(path.name, path, info, scores.judge if scores else None, items, _planned(info, items))


def _pick_scores(path: Path, judge: str | None) -> Scores | None:
    files = score_files(path)
    if judge is None and len(files) > 1:
        raise UsageError(
            f"{path} has scores of {len(files)} judges; choose one with --judge "
            f"({', '.join(files)}): scores of different judges are never averaged."
        )
    if judge is None:
        return read_scores(next(iter(files.values()))) if files else None
    for file in files.values():
        if file == scores_path(path, judge):
            return read_scores(file)
    there = f"it has scores of {', '.join(files)}" if files else "it has no scores yet"
    raise UsageError(
        f"{path} has no scores of the judge '{judge}' ({there}); run 'viscot score {path} --judge {judge}'."
    )


def _planned(info: RunInfo, items: tuple[ScoredItem, ...]) -> dict[tuple[str, str], int]:
    """The items planned by ``run.json``; never fewer than the items present."""
    planned = {(s, canonical(d)): n for s, sets in info.planned.items() for d, n in sets.items()}
    for group, n in Counter((item.strategy, item.dataset) for item in items).items():
        planned[group] = max(n, planned.get(group, 0))
    return planned


def check_same_judge(runs: list[ScoredRun], *, mix_judges: bool = False) -> None:
    """Refuse to compare runs whose scores come from different judges.

    Raises:
        UsageError: naming both judges.
    """
    judged = [run for run in runs if run.judge]
    for other in judged[1:]:
        first, second = judged[0].judge, other.judge
        if first and second and not first.same_judge(second) and not mix_judges:
            raise UsageError(
                f"{judged[0].path} was judged by {first.describe()}, {other.path} by {second.describe()}: "
                "these scores are not comparable; score both with one judge, or pass --mix-judges."
            )


def truncated(run: ScoredRun) -> dict[str, tuple[int, int]]:
    """``strategy -> (answers that the token limit cut, all answers)``; only strategies that have any."""
    counts = {}
    for strategy in run.strategies:
        answered = [i.prediction for i in run.items if i.strategy == strategy and i.prediction.done]
        if cut := sum(p.status == "truncated" for p in answered):
            counts[strategy] = (cut, len(answered))
    return counts


def excluded(run: ScoredRun) -> dict[str, dict[str, int]]:
    """``strategy -> reason -> number of items`` that are in no mean; only reasons that occur.

    If no judge has scored the run, "not judged" is not counted: a note says so instead.
    """
    return {strategy: _excluded_of(run, strategy) for strategy in run.strategies}


def _excluded_of(run: ScoredRun, strategy: str) -> dict[str, int]:
    items = [item for item in run.items if item.strategy == strategy]
    absent = sum(n for (name, _), n in run.planned.items() if name == strategy) - len(items)
    images = sum(run.info.missing.get(name, 0) for name in run.info.planned.get(strategy, {}))
    found = Counter(reason for item in items if (reason := _excluded_because(item, run)) is not None)
    found["no image"] = min(images, absent)
    found["not run"] = absent - found["no image"]
    return {reason: found[reason] for reason in EXCLUDED_REASONS if found[reason]}


def _excluded_because(item: ScoredItem, run: ScoredRun) -> str | None:
    """Why the item has no score (RefCOCO: no box); None if it has one."""
    if not item.prediction.done:
        return "failed"
    if not run.has_answers or run.judge is None:
        return None
    if pair_of(item.prediction) is None:
        return "cut off" if item.prediction.status == "truncated" else "nothing to judge"
    if item.outcome is None:
        return "not judged"
    return _VERDICTS.get(item.outcome.state)
