"""Computes the statistics of a run: answers, boxes, differences, slices. ``tables.py`` prints them.

Conventions, the same everywhere:

* Only scored answers enter a mean. Every mean says n of N; N is the number of items the benchmark planned.
* *Overall* is the mean of the data sets' means, as the paper averages (``Average.ITEMS`` pools the items
  instead). A data set without any score is excluded, and named in ``notes``; it never counts as 0.
* A box is right if its IoU is strictly above the threshold (paper Table 7). A box that cannot be parsed is
  the model's mistake: it counts as wrong, with IoU 0. A prediction that failed is not the model's answer:
  it is excluded.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from viscot_core.report.choices import Average, By
from viscot_core.report.intervals import (
    Bools,
    ClusterSample,
    Floats,
    PairedTest,
    joined,
    mean_interval,
    paired_test,
)
from viscot_core.report.names import DOMAINS, OTHER_DOMAIN, domain, paper_order
from viscot_core.report.scored_run import BOX_STRATEGIES, ScoredItem, ScoredRun, excluded, truncated
from viscot_core.report.stats_types import (
    AREA_BINS,
    IOU_THRESHOLDS,
    Answers,
    Boxes,
    Conditional,
    Difference,
    Slice,
    Stats,
    StatsOptions,
    T,
    area_label,
)

ByDataset = dict[str, list[ScoredItem]]


def analyse(run: ScoredRun, options: StatsOptions | None = None) -> Stats:
    """All statistics of one run."""
    options = options or StatsOptions()
    answers: dict[str, Slice[Answers]] = {}
    boxes: dict[str, Slice[Boxes]] = {}
    notes: list[str] = []
    by_strategy = _grouped(run.items, lambda item: item.strategy)
    for strategy in run.strategies:
        items = by_strategy.get(strategy, [])
        planned = {d: n for (s, d), n in run.planned.items() if s == strategy}
        if run.has_answers:
            answers[strategy] = _answers(items, planned, options)
        if strategy in BOX_STRATEGIES:
            boxes[strategy] = _boxes(items, planned, options)
    notes += _missing_notes(run, answers, options)
    return Stats(
        run=run,
        by=options.by,
        average=options.average,
        answers=answers,
        boxes=boxes,
        differences=_differences(by_strategy, options),
        by_box={s: _conditional(by_strategy.get(s, []), options) for s in answers if s in BOX_STRATEGIES},
        excluded=excluded(run),
        notes=notes,
    )


def _grouped(items: Iterable[ScoredItem], key: Callable[[ScoredItem], str]) -> dict[str, list[ScoredItem]]:
    groups: dict[str, list[ScoredItem]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def category(item: ScoredItem) -> str:
    """``vstar: direct_attributes``: of one benchmark only; the data set's name where it has no categories."""
    named = item.prediction.category
    return item.dataset if named is None else f"{item.dataset}: {named}"


def _rng(options: StatsOptions, *names: str) -> np.random.Generator:
    """Each figure has its own generator, so a new data set or strategy changes no other figure."""
    # crc32, not hash(): Python's hash of a text differs from process to process.
    return np.random.default_rng([options.seed, *(zlib.crc32(n.encode()) for n in names)])


@dataclass
class _Group:
    """The items of one table cell, split by data set, and how many were planned."""

    by_dataset: ByDataset
    of: int


def _groups(items: list[ScoredItem], planned: dict[str, int], by: By) -> dict[str, _Group]:
    """The groups of a table in its order. Items are planned by data set: elsewhere N is what was done."""
    by_dataset = _grouped(items, lambda item: item.dataset)
    if by is By.DATASET:
        return {d: _Group({d: by_dataset.get(d, [])}, planned[d]) for d in paper_order(set(planned))}
    if by is By.DOMAIN:
        found = {name: [d for d in planned if domain(d) == name] for name in (*DOMAINS, OTHER_DOMAIN)}
        return {
            name: _Group({d: by_dataset.get(d, []) for d in sets}, sum(planned[d] for d in sets))
            for name, sets in found.items()
            if sets
        }
    if by is By.CATEGORY:
        return {
            name: _Group(_grouped(members, lambda item: item.dataset), len(members))
            for name, members in sorted(_grouped(items, category).items())
        }
    groups = {}
    for low, high in AREA_BINS:
        inside = [i for i in items if (share := i.box_share) is not None and low <= share < high]
        groups[area_label(low, high)] = _Group(_grouped(inside, lambda item: item.dataset), len(inside))
    return groups


def _slice(
    cell: Callable[[ByDataset, int, bool], T], items: list[ScoredItem], planned: dict[str, int], by: By
) -> Slice[T]:
    """One cell per group and one over all. Items of one box size or category are pooled: a set has few."""
    pooled = by in (By.BOX_AREA, By.CATEGORY)
    groups = {name: cell(g.by_dataset, g.of, pooled) for name, g in _groups(items, planned, by).items()}
    return Slice(groups, cell(_grouped(items, lambda item: item.dataset), sum(planned.values()), False))


def _answers(items: list[ScoredItem], planned: dict[str, int], options: StatsOptions) -> Slice[Answers]:
    def cell(by_dataset: ByDataset, of: int, pooled: bool) -> Answers:
        scores = {d: _sample(members, lambda item: item.score) for d, members in by_dataset.items()}
        return _mean_of(scores, of, options, pooled=pooled)

    return _slice(cell, items, planned, options.by)


def _sample(items: Sequence[ScoredItem], value: Callable[[ScoredItem], float | None]) -> ClusterSample:
    """The values there are, and the image that each belongs to."""
    found = [(v, item) for item in items if (v := value(item)) is not None]
    return ClusterSample(np.array([v for v, _ in found], np.float64), _units([item for _, item in found]))


def _units(items: Sequence[ScoredItem]) -> tuple[Hashable, ...]:
    return tuple(item.unit for item in items)


def _mean_of(
    values: dict[str, ClusterSample], of: int, options: StatsOptions, *, pooled: bool = False
) -> Answers:
    """Mean and interval of scores that are split by data set."""
    samples = [v for v in values.values() if v.size]
    n = sum(v.size for v in samples)
    if not n:
        return Answers(None, 0, of, None)
    if pooled or options.average is Average.ITEMS:
        samples = [joined(samples)]
    return Answers(float(np.mean([v.values.mean() for v in samples])), n, of, mean_interval(samples))


def _boxes(items: list[ScoredItem], planned: dict[str, int], options: StatsOptions) -> Slice[Boxes]:
    def cell(by_dataset: ByDataset, of: int, pooled: bool) -> Boxes:
        compared = {d: [i for i in members if i.iou is not None] for d, members in by_dataset.items()}
        ious = {d: np.array([i.iou for i in members]) for d, members in compared.items()}
        status = [i.prediction.box_status for members in by_dataset.values() for i in members]
        hits = {t: {d: (v > t).astype(float) for d, v in ious.items()} for t in IOU_THRESHOLDS}
        halves = {d: ClusterSample(hits[0.5][d], _units(members)) for d, members in compared.items()}
        at_half = _mean_of(halves, of, options, pooled=pooled)
        return Boxes(
            accuracy={t: _plain_mean(hits[t], options, pooled) for t in IOU_THRESHOLDS},
            at_least_half=_plain_mean({d: v >= 0.5 for d, v in ious.items()}, options, pooled),
            ci95=at_half.ci95,
            mean_iou=_plain_mean(ious, options, pooled),
            n=at_half.n,
            of=of,
            repaired=status.count("repaired"),
            unparsable=status.count("unparsable"),
        )

    return _slice(cell, items, planned, options.by)


def _plain_mean(values: Mapping[str, Floats | Bools], options: StatsOptions, pooled: bool) -> float | None:
    arrays = [v for v in values.values() if v.size]
    if not arrays:
        return None
    if pooled or options.average is Average.ITEMS:
        return float(np.concatenate(arrays).mean())
    return float(np.mean([v.mean() for v in arrays]))


def _differences(by_strategy: dict[str, list[ScoredItem]], options: StatsOptions) -> list[Difference]:
    """``cot`` minus every other strategy, paired by question."""
    first = "cot"
    found = []
    for second in by_strategy:
        if first not in by_strategy or second in (first, "refcoco"):
            continue
        if pairs := paired(by_strategy[first], by_strategy[second], options, first, second):
            found.append(Difference(first, second, *pairs))
    return found


def paired(
    first: Sequence[ScoredItem],
    second: Sequence[ScoredItem],
    options: StatsOptions,
    *names: str,
    value: Callable[[ScoredItem], float | None] = lambda item: item.score,
) -> tuple[PairedTest, list[str]] | None:
    """The paired test of two strategies or two runs, and the data sets of the pairs; None if they share no
    question with a value."""
    other = {i.key: v for i in second if (v := value(i)) is not None}
    shared = [item for item in first if item.key in other and value(item) is not None]
    if not shared:
        return None
    grouped = _grouped(shared, lambda item: item.dataset if options.average is Average.DATASETS else "")
    samples = [
        _sample(items, lambda i: None if (mine := value(i)) is None else mine - other[i.key])
        for items in grouped.values()
    ]
    test = paired_test(samples, _rng(options, *names), options.resamples)
    return test, paper_order({item.dataset for item in shared})


def _conditional(items: list[ScoredItem], options: StatsOptions) -> Conditional:
    """Answer scores split by whether the model's own box was right; items pooled over data sets."""

    def mean(right: bool) -> Answers:
        chosen = [i for i in items if i.iou is not None and (i.iou > 0.5) is right]
        values = _sample(chosen, lambda item: item.score)
        return _mean_of({"": values}, values.size, options, pooled=True)

    return Conditional(mean(True), mean(False))


def _missing_notes(run: ScoredRun, answers: dict[str, Slice[Answers]], options: StatsOptions) -> list[str]:
    """Sentences about what the figures exclude."""
    notes = []
    if run.info.missing:
        left = ", ".join(f"{name} {count}" for name, count in run.info.missing.items())
        notes.append(f"Skipped by --skip-missing, but still counted in every N: {left}.")
    limit = run.info.settings.get("max_new_tokens", "?")
    notes += [
        f"{strategy}: the token limit (--max-new-tokens {limit}) cut {cut} of {of} answers ({cut / of:.1%})."
        for strategy, (cut, of) in truncated(run).items()
    ]
    several = Counter(item.strategy for item in run.items if item.prediction.boxes)
    notes += [f"{name}: {n} replies name several boxes; the first counts." for name, n in several.items()]
    if answers and run.judge is None:
        return [*notes, f"No answer is scored yet: run 'viscot score {run.path} --judge exact'."]
    if options.by is By.DATASET:
        everywhere = {name for part in answers.values() for name in part.groups}
        for strategy, part in answers.items():
            scored = {name for name, cell in part.groups.items() if cell.n}
            if missing := paper_order(everywhere - scored):
                notes.append(
                    f"{strategy}: no score for {', '.join(missing)}; its overall covers the other data sets."
                )
    return notes
