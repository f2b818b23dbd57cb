"""The types that hold a run's statistics. ``analysis.py`` computes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from viscot_core.report.choices import Average, By
from viscot_core.report.intervals import RESAMPLES, Interval, PairedTest
from viscot_core.report.names import DOMAINS, OTHER_DOMAIN, paper_order
from viscot_core.report.scored_run import ScoredRun

T = TypeVar("T")

IOU_THRESHOLDS = (0.3, 0.5, 0.7)
AREA_BINS = ((0.0, 0.01), (0.01, 0.05), (0.05, 0.2), (0.2, float("inf")))
"""Bins of the share of the image that the annotated box covers; the benchmark's median is 3.6 %."""


@dataclass(frozen=True)
class Answers:
    """Mean score of a group of answers; mean and ci95 are None if nothing was scored."""

    mean: float | None
    n: int
    of: int
    ci95: Interval | None


@dataclass(frozen=True)
class Boxes:
    """Predicted boxes of a group against the annotated ones; accuracies by IoU threshold, 0..1."""

    accuracy: dict[float, float | None]
    """IoU strictly above the threshold, as the reference counts."""
    at_least_half: float | None
    """IoU of 0.5 or more, as RefCOCO's own papers count."""
    ci95: Interval | None
    """Of the accuracy at 0.5."""
    mean_iou: float | None
    n: int
    """Boxes compared; 0 for a model family that points."""
    of: int
    repaired: int
    unparsable: int
    """Of all replies, whether compared or not."""

    @property
    def acc50(self) -> float | None:
        return self.accuracy[0.5]


@dataclass(frozen=True)
class Slice(Generic[T]):
    """One strategy: a figure per group (data set, domain or size of box) and overall."""

    groups: dict[str, T]
    overall: T


@dataclass(frozen=True)
class Difference:
    """Score of ``first`` minus score of ``second`` on the questions both have a score for."""

    first: str
    second: str
    test: PairedTest
    datasets: list[str]
    """The data sets that the questions are of."""


@dataclass(frozen=True)
class Conditional:
    """Mean score of the answers after a right box (IoU > 0.5) and after a wrong one."""

    right: Answers
    wrong: Answers


@dataclass(frozen=True)
class Stats:
    """Everything ``viscot stats`` says about one run."""

    run: ScoredRun
    by: By
    average: Average
    answers: dict[str, Slice[Answers]]
    boxes: dict[str, Slice[Boxes]]
    differences: list[Difference]
    by_box: dict[str, Conditional]
    excluded: dict[str, dict[str, int]]
    """Items that are in no mean, by strategy and reason (``scored_run.EXCLUDED_REASONS``)."""
    notes: list[str] = field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """The groups in which any strategy has answers, in the order of the tables."""
        found = {name for part in self.answers.values() for name in part.groups}
        if self.by is By.DATASET:
            return paper_order(found)
        if self.by is By.CATEGORY:
            return sorted(found)
        order = (*DOMAINS, OTHER_DOMAIN, *(area_label(*edges) for edges in AREA_BINS))
        return [name for name in order if name in found]


@dataclass(frozen=True)
class StatsOptions:
    """How to average and resample. The same options give the same digits."""

    by: By = By.DATASET
    average: Average = Average.DATASETS
    resamples: int = RESAMPLES
    seed: int = 0


def area_label(low: float, high: float) -> str:
    """``1-5 %``: the label of one of ``AREA_BINS``."""
    if low == 0:
        return f"< {high:.0%}".replace("%", " %")
    if high == float("inf"):
        return f">= {low:.0%}".replace("%", " %")
    return f"{100 * low:g}-{100 * high:g} %"
