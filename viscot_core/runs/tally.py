"""What a call did, what the run folder holds now, and on which machine: the counts of ``run.json``."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from viscot_core.runs.journal import Journal
from viscot_core.runs.records import SERVER, Prediction, RunInfo


@dataclass
class Tally:
    """What this call did."""

    finished: int = 0
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Why items failed; the next call tries them again."""
    open: Counter[str] = field(default_factory=Counter)
    """Why items are left for the next call."""
    seconds: float = 0.0
    least_seconds: float | None = None
    """What the call would have taken at the peak of its GPU, where that can be counted."""

    def count(self, predictions: Sequence[Prediction]) -> None:
        """Add items that this call asked about."""
        self.finished += sum(p.done for p in predictions)
        self.failed += sum(not p.done for p in predictions)
        self.failures.update(p.error or "no reason was recorded" for p in predictions if not p.done)


def conclude(journal: Journal, info: RunInfo, tally: Tally) -> RunInfo:
    """Write what the folder holds now into ``run.json``; of several ranks the last one sees everything."""
    pending = dict(tally.open)
    # A rank knows only its own lines until it reads those of the others.
    if journal.session is not None:
        journal.reload()
        pending = dict(journal.share_open(tally.open))
    states = Counter(
        prediction.status
        for key, prediction in journal.finished.items()
        if key[1] in info.planned.get(key[0], {})
    )
    total = sum(sum(sets.values()) for sets in info.planned.values())
    missing = sum(info.missing.get(name, 0) for sets in info.planned.values() for name in sets)
    counts = {
        "done": states["done"],
        "failed": states["failed"],
        "missing": missing,
        "pending": max(0, total - states.total() - missing),
    }
    if states["truncated"]:
        counts["truncated"] = states["truncated"]
    seconds = tally.seconds if journal.session is None else 0.0  # the parent of the ranks has the wall time
    update = {"counts": counts, "pending": pending, "seconds": info.seconds + seconds}
    return journal.save(info.model_copy(update=update))


def with_versions(info: RunInfo, versions: frozenset[str]) -> RunInfo:
    """``info`` with what servers said of themselves, beside what is on record from earlier calls."""
    known = {name for name in info.environment.get(SERVER, "").split(", ") if name} | versions
    if not known:
        return info
    told = {**info.environment, SERVER: ", ".join(sorted(known))}
    return info.model_copy(update={"environment": told})


def environment() -> dict[str, str]:
    """Versions and machine, for the record; none of it decides whether a run may continue."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "cpus": str(os.cpu_count())}
    for package in ("viscot", "torch", "transformers", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
