"""How often a model looked, what of its calls was refused, whether it helped, and what answers cost.

Only strategies whose items have a talk on record (``Prediction.trace``) have figures of looks. They are read
from the rows as they stand: a report needs no reader of traces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from viscot_core.report.scored_run import ScoredItem
from viscot_core.report.tables import Table, count, number, share


@dataclass(frozen=True)
class Looks:
    """The looks of a strategy's items. ``scores`` has mean score and count by the number of looks."""

    items: int
    looks: int
    refused: int
    tokens: int
    seconds: float
    stops: dict[str, int]
    """Why the talks ended; ``answer`` is the only good end."""
    scores: dict[int, tuple[float | None, int, int]]
    """Number of looks -> mean score (None: none is scored), scored items, items."""


def looks_by_strategy(items: Sequence[ScoredItem]) -> dict[str, Looks]:
    """The figures of each strategy that has talks on record, in the order of the items."""
    talks: dict[str, list[ScoredItem]] = {}
    for item in items:
        if item.prediction.trace is not None:
            talks.setdefault(item.strategy, []).append(item)
    return {strategy: _looks(members) for strategy, members in talks.items()}


def _looks(items: Sequence[ScoredItem]) -> Looks:
    rows: list[dict[str, Any]] = [item.prediction.trace or {} for item in items]
    by_number: dict[int, list[ScoredItem]] = {}
    for item, row in zip(items, rows, strict=True):
        by_number.setdefault(len(row.get("looks", ())), []).append(item)
    scores = {}
    for looks, members in sorted(by_number.items()):
        scored = [item.score for item in members if item.score is not None]
        scores[looks] = (fmean(scored) if scored else None, len(scored), len(members))
    return Looks(
        items=len(items),
        looks=sum(len(row.get("looks", ())) for row in rows),
        refused=sum(len(row.get("errors", ())) for row in rows),
        tokens=sum(int(row.get("tokens") or 0) for row in rows),
        seconds=sum(float(row.get("seconds") or 0) for row in rows),
        stops=dict(Counter(str(row.get("stop", "answer")) for row in rows).most_common()),
        scores=scores,
    )


def looks_tables(run: str, found: dict[str, Looks]) -> list[Table]:
    """One table about the looks, and one with the answers by their number."""
    if not found:
        return []
    rows = [
        (
            strategy,
            f"{each.looks / each.items:.2f}",
            share(each.refused, each.refused + each.looks),
            f"{each.tokens / each.items:.0f}",
            f"{each.seconds / each.items:.2f}",
            ", ".join(f"{stop} {count}" for stop, count in each.stops.items()),
            str(each.items),
        )
        for strategy, each in found.items()
    ]
    header = ("strategy", "looks an item", "refused calls", "tokens", "seconds", "ended by", "items")
    by_number = [
        (f"{strategy}, {looks} look{'' if looks == 1 else 's'}", number(mean), f"{scored} of {of}")
        for strategy, each in found.items()
        for looks, (mean, scored, of) in each.scores.items()
    ]
    return [
        Table(f"{run}: looks, with tokens and seconds an item", header, rows),
        Table("Answers by number of looks", ("", "answers", "n of N"), by_number),
    ]


def looks_json(each: Looks) -> dict[str, Any]:
    """For other programs."""
    calls = each.looks + each.refused
    return {
        "items": each.items,
        "looks_an_item": each.looks / each.items,
        "refused_share": each.refused / calls if calls else None,
        "tokens_an_item": each.tokens / each.items,
        "seconds_an_item": each.seconds / each.items,
        "stops": each.stops,
        "by_looks": {
            str(looks): {"mean": mean, "n": n, "of": of} for looks, (mean, n, of) in each.scores.items()
        },
    }


# -- what an item cost, looks or not


@dataclass(frozen=True)
class ItemCost:
    """Means over the ``n`` of ``of`` items whose records say it; None where none does."""

    calls: float | None
    tokens: float | None
    prompt_tokens: float | None
    seconds: float | None
    n: int
    of: int


def costs_by_strategy(items: Sequence[ScoredItem]) -> dict[str, ItemCost]:
    """The costs of each strategy, in the order of the items; none for a run whose records do not say it."""
    members: dict[str, list[ScoredItem]] = {}
    for item in items:
        members.setdefault(item.strategy, []).append(item)
    found = {strategy: _cost(each) for strategy, each in members.items()}
    return found if any(cost.n for cost in found.values()) else {}


def _cost(items: Sequence[ScoredItem]) -> ItemCost:
    known = [item.prediction for item in items if item.prediction.done and item.prediction.calls is not None]

    def mean(values: Sequence[float | None]) -> float | None:
        said = [value for value in values if value is not None]
        return fmean(said) if said else None

    return ItemCost(
        calls=mean([p.calls for p in known]),
        tokens=mean([p.tokens for p in known]),
        prompt_tokens=mean([p.prompt_tokens for p in known]),
        seconds=mean([p.seconds for p in known]),
        n=len(known),
        of=len(items),
    )


def cost_tables(run: str, found: dict[str, ItemCost]) -> list[Table]:
    """One line a strategy."""
    rows = [
        (
            strategy,
            *("-" if value is None else f"{value:.2f}" for value in (c.calls, c.tokens, c.prompt_tokens)),
            "-" if c.seconds is None else f"{c.seconds:.3f}",
            count(c.n, c.of),
        )
        for strategy, c in found.items()
    ]
    header = ("strategy", "calls", "new tokens", "prompt tokens", "seconds", "n of N")
    return [Table(f"{run}: cost of an item", header, rows)] if rows else []
