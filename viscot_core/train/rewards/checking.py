"""What traces would earn: their groups, each trace's parts, and the means of a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from viscot_core.data.traces.trace import Trace
from viscot_core.errors import DataError
from viscot_core.images.reading import image_size
from viscot_core.paths import inside
from viscot_core.train.rewards.attempt import Attempt, attempt_of_trace
from viscot_core.train.rewards.named import Earned, Weighted, earn, without_spread


@dataclass(frozen=True, slots=True)
class TraceEarned:
    """One trace of a file: its number from 1, what it is called, the number of its group, what it earns."""

    number: int
    id: int | str | None
    group: int
    earned: Earned


@dataclass(frozen=True, slots=True)
class CheckedTraces:
    """All traces of a file. ``means`` are over the traces with a value, whose number is in ``known``."""

    traces: tuple[TraceEarned, ...]
    means: dict[str, float]
    known: dict[str, int]
    groups: int
    """Groups of two attempts or more."""
    flat: int
    """Of them, how many have totals that are all equal."""
    left_out: tuple[str, ...] = ()


def attempt_in(trace: Trace, root: Path) -> Attempt:
    """The attempt of a trace with images under ``root``. Raises DataError where one cannot be read."""
    return attempt_of_trace(trace, [image_size(inside(root, path)) for path in trace.images])


def check_traces(traces: Iterable[Trace | str], root: Path, rewards: Sequence[Weighted]) -> CheckedTraces:
    """What each trace earns; those about the same question and images are one group.

    A text in place of a trace is why a row is none; it is left out, as is a trace whose image is missing.
    """
    attempts: list[tuple[int, Trace, Attempt]] = []
    left_out: list[str] = []
    for number, row in enumerate(traces, 1):
        if isinstance(row, str):
            left_out.append(row)
            continue
        try:
            attempts.append((number, row, attempt_in(row, root)))
        except DataError as error:
            left_out.append(f"trace {number}: {error}")
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, (_, trace, _) in enumerate(attempts):
        groups.setdefault((trace.id, trace.question, trace.images), []).append(place)
    found: dict[int, TraceEarned] = {}
    for group, places in enumerate(groups.values(), 1):
        for place, earned in zip(places, earn(rewards, [attempts[at][2] for at in places]), strict=True):
            number, trace, _ = attempts[place]
            found[place] = TraceEarned(number, trace.id, group, earned)
    ordered = tuple(found[place] for place in sorted(found))
    means, known = _means(ordered, rewards)
    totals: dict[int, list[float]] = {}
    for one in ordered:
        if one.earned.total is not None:
            totals.setdefault(one.group, []).append(one.earned.total)
    several = [group for group in totals.values() if len(group) > 1]
    flat = without_spread(several)
    return CheckedTraces(ordered, means, known, len(several), flat, tuple(left_out))


def _means(
    traces: Sequence[TraceEarned], rewards: Sequence[Weighted]
) -> tuple[dict[str, float], dict[str, int]]:
    columns: dict[str, list[float]] = {name: [] for name in (*(one.name for one in rewards), "total")}
    for trace in traces:
        for name, part in trace.earned.parts.items():
            if part.value is not None:
                columns[name].append(part.value)
        if trace.earned.total is not None:
            columns["total"].append(trace.earned.total)
    means = {name: fmean(values) for name, values in columns.items() if values}
    return means, {name: len(values) for name, values in columns.items()}
