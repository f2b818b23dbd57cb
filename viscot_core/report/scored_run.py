"""A run folder as the statistics see it: every item with its verdict, and how many items there should be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
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
)

BOX_STRATEGIES = ("cot", "refcoco")
"""Strategies in which the model itself predicts a box; the others are given theirs."""

EXCLUDED_REASONS = {
    "no image": "left out by --skip-missing",
    "not run": "the benchmark has not come to it",
    "failed": "the engine could not answer: an unreadable image, a prompt too long",
    "nothing to judge": "the item has no answer, or no reference to judge it by",
    "not judged": "the judge has not been asked",
    "pending": "the judge was asked and no reply came",
    "unscored": "no single score can be read from the judge's reply",
    "refused": "the judge refuses the item (a content filter)",
}
"""The reasons, in the order in which an item meets them."""


_VERDICTS = {State.PENDING: "pending", State.UNSCORED: "unscored", State.FAILED: "refused"}


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One prediction and what the judge said about it (None: no verdict)."""

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
        """What makes two strategies' or two runs' items the same question."""
        return (self.dataset, str(self.prediction.question_id))

    @property
    def score(self) -> float | None:
        return self.outcome.score if self.outcome and self.outcome.state is State.SCORED else None

    @property
    def iou(self) -> float | None:
        """IoU of a box the model predicted: None where nothing can be compared, 0 if it was unparsable.

        Families that point instead of drawing a box have no IoU, and so no box accuracy.
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
        side = max(p.width, p.height)
        return max(0.0, x1 - x0) * max(0.0, y1 - y0) * side * side / (p.width * p.height)


@dataclass(frozen=True)
class ScoredRun:
    """A run folder, read whole."""

    name: str
    path: Path
    info: RunInfo
    judge: JudgeIdentity | None
    items: tuple[ScoredItem, ...]
    planned: dict[tuple[str, str], int]
    """``(strategy, dataset) -> items`` the benchmark set out to do: the N of every "n of N"."""

    @property
    def strategies(self) -> list[str]:
        order = ("cot", "direct", "gt-box", "random-box", "center-box", "no-image", "refcoco")
        names = {s for s, _ in self.planned}
        return [s for s in order if s in names] + sorted(names - set(order))

    @property
    def datasets(self) -> set[str]:
        return {d for _, d in self.planned}


def read_scored_run(path: Path, judge: str | None = None) -> ScoredRun:
    """Read predictions and the scores of one judge (the only one there, or the one named).

    Raises:
        UsageError: several judges' scores and none named, or a judge that never scored this run.
        DataError: no run folder, or scores that belong to another run.
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
            f"{path} was scored by {len(files)} judges; say whose scores to use with --judge "
            f"({', '.join(files)}): scores of different judges are never averaged."
        )
    if judge is None:
        return read_scores(next(iter(files.values()))) if files else None
    wanted = {judge, "".join(c if c.isalnum() or c in "._-" else "-" for c in judge)}
    for name, file in files.items():
        if name in wanted:
            return read_scores(file)
    there = f"it has scores of {', '.join(files)}" if files else "it has no scores yet"
    raise UsageError(
        f"{path} has no scores of the judge '{judge}' ({there}); run 'viscot score {path} --judge {judge}'."
    )


def _planned(info: RunInfo, items: tuple[ScoredItem, ...]) -> dict[tuple[str, str], int]:
    """What the run set out to do; at least what is there, should ``run.json`` say less."""
    planned = {(s, canonical(d)): n for s, sets in info.planned.items() for d, n in sets.items()}
    for group, n in Counter((item.strategy, item.dataset) for item in items).items():
        planned[group] = max(n, planned.get(group, 0))
    return planned


def check_same_judge(runs: list[ScoredRun], *, mix_judges: bool = False) -> None:
    """Refuse to set runs beside each other whose scores come from different judges.

    Raises:
        UsageError: naming both judges.
    """
    judged = [run for run in runs if run.judge]
    for other in judged[1:]:
        first, second = judged[0].judge, other.judge
        if first and second and not first.same_judge(second) and not mix_judges:
            raise UsageError(
                f"{judged[0].path} was judged by {first.describe()}, {other.path} by "
                f"{second.describe()}: such scores "
                "do not compare; score both with one judge, or say --mix-judges."
            )


def excluded(run: ScoredRun) -> dict[str, dict[str, int]]:
    """``strategy -> reason -> items``, only reasons that occur.

    Before any judge was asked ("not judged" of all) that reason is not counted: a note says it.
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
    """Why the item has no score, or (an expression) no box; None where it has."""
    if not item.prediction.done:
        return "failed"
    if run.info.kind == "refcoco" or run.judge is None:
        return None
    if pair_of(item.prediction) is None:
        return "nothing to judge"
    if item.outcome is None:
        return "not judged"
    return _VERDICTS.get(item.outcome.state)
