"""``--compare published``: figures of later systems beside a run's, each with its source and its protocol.

A figure is never called better or worse than a run's: most sources do not tell how they measured. What
differs from the run's card is named, and what the source does not tell as well; so is a run that did not ask
the published questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from viscot_core.report.benchmarks.card import card_of
from viscot_core.report.intervals import Interval
from viscot_core.report.names import title
from viscot_core.report.stats_types import Stats
from viscot_core.report.tables import Table, count, interval
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS

Standing = Literal["read", "second hand"]
TOLD = ("protocol", "repeats", "judge", "image-sent", "looks", "temperature")
"""The fields of a run card that decide whether two figures mean the same."""
_NAMES = {"order": "protocol", "k": "repeats", "reading": "judge"}
"""What ``published.yaml`` calls some of them."""


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of one system, 0..1; ``protocol`` by the names of the run card."""

    dataset: str
    model: str
    value: float
    protocol: Mapping[str, str]
    source: str
    standing: Standing


@cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """Every figure of the part ``systems`` of ``published.yaml``."""
    text = files("viscot_core.report").joinpath("published.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    found = []
    for group in data["systems"]:
        protocol = {_NAMES.get(name, name): str(value) for name, value in group["protocol"].items()}
        for row in group["rows"]:
            for dataset, value in zip(group["columns"], row["values"], strict=True):
                named = (
                    dataset,
                    row["model"],
                    round(value / 100, 5),
                    protocol,
                    group["source"],
                    group["standing"],
                )
                found.append(PublishedFigure(*named))
    return tuple(found)


@dataclass(frozen=True)
class BesidePublished:
    """A published figure beside the run's own on the same data set, and how their protocols differ."""

    strategy: str
    theirs: PublishedFigure
    yours: float
    ci95: Interval | None
    n: int
    of: int
    asked: int
    """Questions of the run on this data set so far; one that is repeated counts once."""
    published: int | None
    """Questions that the published data set has; None where that is not known here."""
    differs: Mapping[str, tuple[str, str]]
    """Field of the card -> (yours, theirs)."""
    untold: tuple[str, ...]


def beside_published(stats: Stats) -> list[BesidePublished]:
    """Every published figure on a data set of the run that has a score; ``stats`` must be by data set."""
    mine = card_of(stats.run).fields
    found = []
    for strategy, part in stats.answers.items():
        for theirs in published_figures():
            cell = part.groups.get(theirs.dataset)
            if cell is None or cell.mean is None:
                continue
            differs = {
                name: (mine[name], theirs.protocol[name])
                for name in TOLD
                if name in theirs.protocol and mine[name] != theirs.protocol[name]
            }
            untold = tuple(name for name in TOLD if name not in theirs.protocol)
            known = BENCHMARKS.get(theirs.dataset)
            questions = (_asked(stats, strategy, theirs.dataset), known.items if known else None)
            figure = (strategy, theirs, cell.mean, cell.ci95, cell.n, cell.of)
            found.append(BesidePublished(*figure, *questions, differs, untold))
    return found


def _asked(stats: Stats, strategy: str, dataset: str) -> int:
    items = [i.prediction for i in stats.run.items if (i.strategy, i.dataset) == (strategy, dataset)]
    return len({str(one.question_id).removesuffix(f"@{one.repeat}") for one in items})


def published_tables(stats: Stats) -> list[Table]:
    """A table for each of the run's own figures; below the last one, a warning for each numbered source."""
    found = beside_published(stats)
    name = f"{stats.run.name} beside published figures"
    if not found:
        return [
            Table(name, (), [], ["There is no published figure on a data set of this run that has a score."])
        ]
    sources = list(dict.fromkeys(map(_warning, found)))
    groups: dict[str, list[tuple[str, ...]]] = {}
    for one in found:
        yours = f"{one.yours:.3f} {interval(one.ci95)}, {count(one.n, one.of)}"
        told = "differs" if one.differs else "not told"
        row = (one.theirs.model, f"{one.theirs.value:.3f}", told, f"[{sources.index(_warning(one)) + 1}]")
        groups.setdefault(f"{name}: {title(one.theirs.dataset)}, {one.strategy}: {yours}", []).append(row)
    header = ("their model", "theirs", "protocol", "source")
    tables = [Table(head, header, rows) for head, rows in groups.items()]
    tables[-1].notes.extend(f"Warning: {told.rstrip('.')}." for told in _other_questions(stats, found))
    tables[-1].notes.extend(f"[{number}] {warning}" for number, warning in enumerate(sources, 1))
    return tables


def _other_questions(stats: Stats, found: list[BesidePublished]) -> list[str]:
    """Data sets of which the run did not ask what is published, and what it warned of when it began."""
    told = [
        f"{one.asked} questions of {one.theirs.dataset} were asked here, {one.published} are published"
        for one in found
        if one.published not in (None, one.asked)
    ]
    counted = tuple(f"{one.theirs.dataset} has " for one in found)  # (the file's number, when it began)
    return list(dict.fromkeys([*told, *(w for w in stats.run.info.warnings if not w.startswith(counted))]))


def _warning(one: BesidePublished) -> str:
    told = [f"{name} is {theirs} there and {yours} here" for name, (yours, theirs) in one.differs.items()]
    if one.untold:
        told.append(f"it does not tell {', '.join(one.untold)}")
    second = " (second hand: read by a third party)" if one.theirs.standing == "second hand" else ""
    return f"Warning: {one.theirs.source}{second}: {'; '.join(told)}."


def published_json(stats: Stats) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "dataset": one.theirs.dataset,
            "strategy": one.strategy,
            "yours": one.yours,
            "ci95": list(one.ci95) if one.ci95 else None,
            "n": one.n,
            "of": one.of,
            "questions": one.asked,
            "questions_published": one.published,
            "model": one.theirs.model,
            "theirs": one.theirs.value,
            "protocol": dict(one.theirs.protocol),
            "source": one.theirs.source,
            "standing": one.theirs.standing,
            "differs": {name: list(pair) for name, pair in one.differs.items()},
            "not_told": list(one.untold),
        }
        for one in beside_published(stats)
    ]
