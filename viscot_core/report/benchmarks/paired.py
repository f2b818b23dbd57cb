"""Two runs on the same questions: paired differences, their intervals, and McNemar's test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from math import comb
from typing import Any

from viscot_core.report.analysis import paired
from viscot_core.report.benchmarks.card import FIELDS, card_of, check_alike
from viscot_core.report.intervals import PairedTest
from viscot_core.report.names import paper_order, title
from viscot_core.report.scored_run import ScoredItem, ScoredRun
from viscot_core.report.stats_types import StatsOptions
from viscot_core.report.tables import Table, interval, number, p_value


@dataclass(frozen=True)
class PairedRow:
    """One strategy on one data set: ``first`` minus ``second``, on the questions that both have a score for.

    ``strategy`` names both, ``zoom - direct``, where each run has another one.

    ``only_first`` and ``only_second`` count pairs in which only that run is right; ``mcnemar`` is the exact
    two-sided p of those counts, None where scores are not 0 or 1.
    """

    strategy: str
    dataset: str
    first: float
    second: float
    test: PairedTest
    only_first: int
    only_second: int
    mcnemar: float | None


def compare_pair(
    first: ScoredRun, second: ScoredRun, options: StatsOptions | None = None, *, allow: Collection[str] = ()
) -> list[PairedRow]:
    """Every strategy and data set of both runs; of two runs with one strategy each, these two strategies.

    Raises:
        UsageError: the runs' cards differ in a field that is not allowed to.
    """
    check_alike(first, second, allow)
    options = options or StatsOptions()
    theirs = _groups(second)
    rows = []
    # Where a run has one strategy, the strategies are what is compared: `--allow policy` let them differ.
    alone = len(first.strategies) == len(second.strategies) == 1
    for (strategy, dataset), items in sorted(_groups(first).items()):
        against = second.strategies[0] if alone else strategy
        others = theirs.get((against, dataset), [])
        other = {item.key: item.score for item in others}
        pairs = [(item.score, other[item.key]) for item in items if item.key in other]
        found = paired(items, others, options, strategy, dataset)
        if found is None:
            continue
        values = [(a, b) for a, b in pairs if a is not None and b is not None]
        better = sum(a > b for a, b in values)
        worse = sum(a < b for a, b in values)
        binary = all(value in (0.0, 1.0) for pair in values for value in pair)
        rows.append(
            PairedRow(
                strategy if against == strategy else f"{strategy} - {against}",
                dataset,
                sum(a for a, _ in values) / len(values),
                sum(b for _, b in values) / len(values),
                found[0],
                better,
                worse,
                mcnemar(better, worse) if binary else None,
            )
        )
    return rows


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test: a binomial test of the pairs that disagree (1 without any)."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    # P(X <= fewer) of X ~ B(n, 1/2). Its largest term is exact; each one before it is i / (n - i + 1) of the
    # next, and no number of pairs makes many of them count.
    tail = term = comb(n, fewer) / 2**n
    for i in range(fewer, 0, -1):
        term *= i / (n - i + 1)
        if tail + term == tail:
            break
        tail += term
    return min(1.0, 2 * tail)


def _groups(run: ScoredRun) -> dict[tuple[str, str], list[ScoredItem]]:
    found: dict[tuple[str, str], list[ScoredItem]] = defaultdict(list)
    for item in run.items:
        if item.score is not None:
            found[item.strategy, item.dataset].append(item)
    return found


def paired_tables(first: ScoredRun, second: ScoredRun, rows: list[PairedRow]) -> list[Table]:
    """The cards side by side, and the differences."""
    mine, theirs = card_of(first), card_of(second)
    cards = [("model", mine.model, theirs.model)]
    cards += [(name, mine.fields[name], theirs.fields[name]) for name in FIELDS]
    order = {name: place for place, name in enumerate(paper_order({row.dataset for row in rows}))}
    lines = [
        (
            row.strategy,
            title(row.dataset),
            number(row.first),
            number(row.second),
            f"{row.test.mean:+.3f}",
            interval(row.test.interval, signed=True),
            p_value(row.test.p),
            str(row.only_first),
            str(row.only_second),
            "-" if row.mcnemar is None else p_value(row.mcnemar),
            str(row.test.n),
        )
        for row in sorted(rows, key=lambda row: (row.strategy, order[row.dataset]))
    ]
    header = (
        "strategy", "data set", "first", "second", "difference", "95 % interval", "p", "only first",
        "only second", "McNemar p", "pairs",
    )  # fmt: skip
    notes = [
        "Intervals and p count images; McNemar's test counts answers, as if each had an image of its own."
    ]
    if not rows:
        notes = ["The two runs have no scored question of one strategy in common."]
    return [
        Table("Run cards", ("field", first.name, second.name), cards),
        Table(f"{first.name} minus {second.name}", header, lines, notes),
    ]


def paired_json(first: ScoredRun, second: ScoredRun, rows: list[PairedRow]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "cards": [
            {"run": str(run.path), "model": run.info.model, **card_of(run).fields} for run in (first, second)
        ],
        "differences": [
            {
                "strategy": row.strategy,
                "dataset": row.dataset,
                "first": row.first,
                "second": row.second,
                "mean": row.test.mean,
                "ci95": list(row.test.interval) if row.test.interval else None,
                "p": row.test.p,
                "n": row.test.n,
                "only_first": row.only_first,
                "only_second": row.only_second,
                "mcnemar": row.mcnemar,
            }
            for row in rows
        ],
    }
