"""Does looking matter? The figures of an audit: what became of the answers when the crops were replaced.

Every definition stands with its formula in ``docs/audit.md``. All read one folder of ``viscot audit``, in
which the run's own answers and the replays stand beside each other, scored by one judge. An answer is right
with a score of 0.5 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from viscot_core.boxes.geometry import Box, iou
from viscot_core.report.intervals import ClusterSample, Interval, difference_interval, mean_interval
from viscot_core.report.scored_run import ScoredItem, ScoredRun
from viscot_core.score.offline import normalise

RIGHT = 0.5
"""The least score of a right answer."""
COVERED = 0.5
"""The least share of the true region inside the crop that counts as covered."""
FEW, MANY = 0.2, 0.8
"""Right shares of samples without a look: up to ``FEW`` the tool is needed, from ``MANY`` on it is not."""
ALONE, DIRECT = "alone", "direct"

Key = tuple[str, str]
Items = dict[Key, ScoredItem]
Value = Callable[[ScoredItem], float | None]


@dataclass(frozen=True)
class Figure:
    """A mean over ``n`` of the ``of`` items that it is about; ``ci95`` is None where nothing tells it."""

    value: float | None
    ci95: Interval | None
    n: int
    of: int


@dataclass(frozen=True)
class Replayed:
    """One replacement. ``difference`` is its accuracy minus that of the run, on the items that have both."""

    flips: Figure
    accuracy: Figure
    difference: Figure
    necessity: Figure
    needed: Figure
    """Of the right answers after a look alone: the share that is wrong with the crop replaced."""


@dataclass(frozen=True)
class Coverage:
    """Where the last look was, against the annotated region; and right answers with and without it."""

    iou: Figure
    inside: Figure
    centre: Figure
    table: dict[str, int]
    """Items by ``covered right``, ``covered wrong``, ``missed right``, ``missed wrong``."""
    right_if_covered: Figure
    right_if_missed: Figure


@dataclass(frozen=True)
class Cost:
    """Of all items, for each that was solved; None where no record says it, or none is solved."""

    solved: int
    items: int
    calls: float | None
    tokens: float | None
    prompt_tokens: float | None
    seconds: float | None


@dataclass(frozen=True)
class AuditFigures:
    """One audited strategy; None where the folder does not hold what a figure needs."""

    items: int
    looked: int
    accuracy: Figure
    replaced: dict[str, Replayed]
    sufficiency: Figure | None
    only_with_tool: Figure | None
    gain: Figure | None
    harm: Figure | None
    coverage: Coverage | None
    costs: dict[str, Cost]
    adaptiveness: dict[str, Figure] | None = None


def audits(run: ScoredRun) -> dict[str, AuditFigures]:
    """The figures of each audited strategy; none for a folder that is no audit."""
    names = run.info.settings.get("audit", {}).get("strategies", [])
    by_name: dict[str, Items] = {}
    for item in run.items:
        if item.prediction.done:
            by_name.setdefault(item.strategy, {})[item.key] = item
    # In the order in which they were asked for, not in which they were finished.
    by_name = {name: by_name[name] for name in [*run.info.planned, *by_name] if name in by_name}
    return {name: _figures(name, by_name) for name in names if name in by_name}


def is_replay(strategy: str) -> bool:
    """Whether a strategy is one of an audit alone: replaced crops, a crop alone, a sample."""
    return ":" in strategy


def _figures(name: str, found: dict[str, Items]) -> AuditFigures:
    own = found[name]
    there = {key: item for key, item in own.items() if _crop(item) is not None}
    direct, alone = found.get(DIRECT), found.get(f"{name}:{ALONE}")
    replays = {
        strategy.partition(":")[2]: items
        for strategy, items in found.items()
        if strategy.startswith(f"{name}:")
    }
    return AuditFigures(
        items=len(own),
        looked=len(there),
        accuracy=_mean(own.values(), _right),
        replaced={by: _replayed(there, items) for by, items in replays.items() if by != ALONE},
        sufficiency=None
        if alone is None
        else _mean([alone[key] for key in there if key in alone], _right, len(there)),
        only_with_tool=None if direct is None else _solved(there, direct),
        gain=None if direct is None else _mean(own.values(), partial(_differs, there, direct, 1)),
        harm=None if direct is None else _mean(own.values(), partial(_differs, there, direct, -1)),
        coverage=_coverage(there),
        costs={label: _cost(items.values()) for label, items in ((name, own), (DIRECT, direct)) if items},
        adaptiveness=_adaptiveness(
            own, there, [items for s, items in found.items() if s.startswith(f"{DIRECT}:")]
        ),
    )


def _right(item: ScoredItem) -> float | None:
    """1 or 0; None where no judge says."""
    return None if item.score is None else float(item.score >= RIGHT)


def _mean(items: Iterable[ScoredItem], value: Value, of: int | None = None) -> Figure:
    """The mean of ``value`` over the items for which there is one."""
    items = list(items)
    known = [(v, item.unit) for item in items if (v := value(item)) is not None]
    return _figure(known, len(items) if of is None else of, mean_interval)


def _figure(
    known: Sequence[tuple[float, Hashable]],
    of: int,
    rule: Callable[[Sequence[ClusterSample]], Interval | None],
) -> Figure:
    if not known:
        return Figure(None, None, 0, of)
    values = np.array([value for value, _ in known])
    sample = ClusterSample(values, tuple(unit for _, unit in known))
    return Figure(float(values.mean()), rule([sample]), len(known), of)


def _replayed(there: Items, replays: Items) -> Replayed:
    pairs = [(item, replays[key]) for key, item in there.items() if key in replays]
    of = len(there)
    judged = [(_right(a), _right(b), a.unit) for a, b in pairs]
    both = [(a, b, unit) for a, b, unit in judged if a is not None and b is not None]
    flips = [(float(_words(a) != _words(b)), a.unit) for a, b in pairs]
    return Replayed(
        flips=_figure(flips, of, mean_interval),
        accuracy=_figure([(b, unit) for _, b, unit in judged if b is not None], of, mean_interval),
        difference=_figure([(b - a, unit) for a, b, unit in both], of, difference_interval),
        necessity=_figure([(a * (1 - b), unit) for a, b, unit in both], of, mean_interval),
        needed=_figure(
            [(1 - b, unit) for a, b, unit in both if a], sum(bool(a) for a, _, _ in judged), mean_interval
        ),
    )


def _words(item: ScoredItem) -> str:
    """An answer as the offline judges compare it: another case or a full stop is no other answer."""
    return normalise(item.prediction.answer or "")


def _solved(there: Items, direct: Items) -> Figure:
    """Of the items that are right after a look: the share that is wrong without one."""
    right = {key: item for key, item in there.items() if _right(item)}
    judged = [(_right(direct[key]), item.unit) for key, item in right.items() if key in direct]
    return _figure([(1 - d, unit) for d, unit in judged if d is not None], len(right), mean_interval)


def _differs(there: Items, direct: Items, sign: int, item: ScoredItem) -> float | None:
    """1 where the item's look made the answer right (``sign`` 1) or wrong (-1), against no look."""
    without = direct.get(item.key)
    mine, theirs = _right(item), None if without is None else _right(without)
    if mine is None or theirs is None:
        return None
    return float(item.key in there and mine - theirs == sign)


# -- where it looked


def _crop(item: ScoredItem) -> tuple[int, int, int, int] | None:
    """The last crop that the model saw."""
    return item.prediction.crop


def _regions(item: ScoredItem) -> tuple[Box, Box, Box] | None:
    """The named box, the crop and the true region, in pixels of the image; None where one is not known."""
    p = item.prediction
    if p.crop is None or p.box is None or p.box_gt is None:
        return None
    size = (p.width, p.height)
    truth = Box(*p.box_gt).to_original(size)
    return Box(*p.box).to_original(size), Box(*p.crop, truth.frame), truth


def _share_inside(crop: Box, truth: Box) -> float | None:
    """Share of the true region's area that lies inside the crop; None for a region without area."""
    wide = min(crop.x1, truth.x1) - max(crop.x0, truth.x0)
    high = min(crop.y1, truth.y1) - max(crop.y0, truth.y0)
    return max(0.0, wide) * max(0.0, high) / truth.area if truth.area > 0 else None


def _centre_inside(crop: Box, truth: Box) -> float:
    x, y = (truth.x0 + truth.x1) / 2, (truth.y0 + truth.y1) / 2
    return float(crop.x0 <= x <= crop.x1 and crop.y0 <= y <= crop.y1)


def _inside(item: ScoredItem) -> float | None:
    regions = _regions(item)
    return None if regions is None else _share_inside(*regions[1:])


def _coverage(there: Items) -> Coverage | None:
    """None where no item has an annotated region."""
    items = [item for item in there.values() if _regions(item) is not None]
    if not items:
        return None

    def overlap(item: ScoredItem) -> float | None:
        regions = _regions(item)
        # As everywhere: a box that cannot be read overlaps nothing.
        unread = item.prediction.box_status == "unparsable"
        return None if regions is None else 0.0 if unread else iou(regions[0], regions[2])

    def centre(item: ScoredItem) -> float | None:
        regions = _regions(item)
        return None if regions is None else _centre_inside(*regions[1:])

    of = len(there)
    covered = [item for item in items if (share := _inside(item)) is not None and share >= COVERED]
    missed = [item for item in items if (share := _inside(item)) is not None and share < COVERED]
    table = {
        f"{where} {what}": sum(_right(item) == value for item in members)
        for where, members in (("covered", covered), ("missed", missed))
        for what, value in (("right", 1.0), ("wrong", 0.0))
    }
    return Coverage(
        iou=_mean(items, overlap, of),
        inside=_mean(items, _inside, of),
        centre=_mean(items, centre, of),
        table=table,
        right_if_covered=_mean(covered, _right),
        right_if_missed=_mean(missed, _right),
    )


# -- what it cost, and when it looked


def _cost(items: Iterable[ScoredItem]) -> Cost:
    items = list(items)
    solved = sum(bool(_right(item)) for item in items)

    def each(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / solved if solved and len(known) == len(items) else None

    predictions = [item.prediction for item in items]
    return Cost(
        solved,
        len(items),
        calls=each([p.calls for p in predictions]),
        tokens=each([p.tokens for p in predictions]),
        prompt_tokens=each([p.prompt_tokens for p in predictions]),
        seconds=each([p.seconds for p in predictions]),
    )


def _adaptiveness(own: Items, there: Items, samples: Sequence[Items]) -> dict[str, Figure] | None:
    """Whether the tool is called where samples without it fail, and only there; None without samples."""
    if not samples:
        return None
    needed, needless = [], []
    for key, item in own.items():
        rights = [_right(each[key]) for each in samples if key in each]
        known = [right for right in rights if right is not None]
        if len(known) < len(samples):
            continue
        share = sum(known) / len(known)
        if share <= FEW:
            needed.append((float(key in there), item.unit))
        elif share >= MANY:
            needless.append((float(key not in there), item.unit))
    tool, text = _figure(needed, len(own), mean_interval), _figure(needless, len(own), mean_interval)
    both = None if tool.value is None or text.value is None else (tool.value + text.value) / 2
    return {"tool": tool, "text": text, "mean": Figure(both, None, tool.n + text.n, len(own))}
