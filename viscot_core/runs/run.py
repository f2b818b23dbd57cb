"""The one loop of every benchmark: open images ahead, ask in batches, write what is finished at once.

One model load, all strategies of an item together (they share its image and the model's box). A kill loses
the batch in flight; the same call again does what is left. The text of an item does not depend on its batch.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from viscot_core.errors import BudgetSpent
from viscot_core.runs.journal import Journal
from viscot_core.runs.records import Prediction, RunInfo
from viscot_core.runs.shards import Shard, launch
from viscot_core.tasks.asking import Asker, Job, Look, Open, Outcome, open_looks
from viscot_core.tasks.items import Benchmark, Item

Progress = Callable[[int, int], None]
"""``(finished, total)`` jobs, called after every batch."""

Work = tuple[Item, tuple[str, ...]]
"""An item with the strategies it still lacks."""


@dataclass(frozen=True)
class Plan:
    """What to ask of whom, where to keep it.

    ``settings`` are all that changes an answer and is known before the model is loaded. ``batch`` items are
    asked together, ``parallel`` batches at once (more than one only where a server answers); ``by_image``
    keeps the questions of an image in one batch, for an engine that saves by it.
    """

    folder: Path
    benchmark: Benchmark
    strategies: tuple[str, ...]
    settings: dict[str, Any]
    model: str
    data: Path
    batch: int = 16
    parallel: int = 1
    by_image: bool = True
    weights: Callable[[], str] | None = None
    """Their hash, had without loading them: a whole run belongs to the weights it was made with."""
    shard: Shard = field(default_factory=Shard)
    extra: dict[str, str] = field(default_factory=dict)

    def info(self) -> RunInfo:
        """The run's ``run.json`` before any engine is there."""
        counts = self.benchmark.planned()
        return RunInfo(
            kind=self.benchmark.kind,
            model=self.model,
            data=str(self.data.absolute()),  # the run is shown from anywhere
            settings=self.settings,
            hashes=self.benchmark.hashes,
            planned={strategy: dict(counts) for strategy in self.strategies},
            missing=self.benchmark.missing,
            warnings=list(self.benchmark.warnings),
            environment={**environment(), **self.extra},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )


@dataclass(frozen=True)
class Built:
    """A loaded engine's way to ask, and what only it knows: its identity and the prompts' digest."""

    asker: Asker
    settings: dict[str, Any]
    batch: int | None = None
    """How many items are asked together; None: as planned."""


@dataclass
class Tally:
    """What this call did."""

    finished: int = 0
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Why jobs failed; the next run tries them again."""
    open: Counter[str] = field(default_factory=Counter)
    """Reasons why jobs were left for the next run."""
    seconds: float = 0.0


def run(plan: Plan, build: Callable[[], Built], *, progress: Progress | None = None) -> tuple[RunInfo, Tally]:
    """Do what is left of ``plan``; ``build`` loads the model and is not called where nothing is left.

    Raises:
        UsageError: the folder belongs to other settings, or another process writes to it.
        EngineError: the engine is gone; what was finished is kept.
    """
    tally = Tally()
    with Journal(plan.folder, rank=plan.shard.rank, session=plan.shard.session) as journal:
        info = plan.info()
        journal.check(info)
        work = left(plan, journal)
        if not work and journal.info is not None and journal.info.model == plan.model:
            return conclude(journal, journal.begin(_as_before(plan, info, journal.info)), tally), tally
        built = build()
        info = journal.begin(info.model_copy(update={"settings": {**info.settings, **built.settings}}))
        start = time.perf_counter()
        try:
            _loop(replace(plan, batch=built.batch or plan.batch), built.asker, work, journal, tally, progress)
        finally:
            tally.seconds = time.perf_counter() - start
            info = conclude(journal, info, tally)
    return info, tally


def run_sharded(plan: Plan, job: bytes, gpus: int) -> tuple[RunInfo, Tally]:
    """Do what is left of ``plan`` on ``gpus`` ranks, each of which unpickles ``job``.

    Raises:
        UsageError, EngineError: as ``run``; a rank that dies is an EngineError once all is joined.
    """
    tally = Tally()
    with Journal(plan.folder) as journal:
        info = plan.info()
        journal.check(info)
        before = sum(p.done for p in journal.finished.values())
        if not left(plan, journal) and journal.info is not None and journal.info.model == plan.model:
            return conclude(journal, journal.begin(_as_before(plan, info, journal.info)), tally), tally
    start = time.perf_counter()
    try:
        launch(job, gpus)
    finally:
        with Journal(plan.folder) as journal:
            tally.seconds = time.perf_counter() - start
            tally.finished = sum(p.done for p in journal.finished.values()) - before
            if journal.info is not None:
                tally.open.update(journal.info.pending)
                info = conclude(journal, journal.info, tally)
    return info, tally


def left(plan: Plan, journal: Journal) -> list[Work]:
    """The items with the strategies that are not done, this rank's share, items of one image together."""
    order: dict[Path, int] = {}
    for item in plan.benchmark.items:
        order.setdefault(item.path, len(order))
    work: list[Work] = []
    for item in sorted(plan.benchmark.items, key=lambda item: order[item.path]):
        if order[item.path] % plan.shard.world != plan.shard.rank:
            continue
        names = tuple(
            name
            for name in plan.strategies
            if not journal.is_done((name, item.dataset, str(item.question_id)))
        )
        if names:
            work.append((item, names))
    return work


def _loop(
    plan: Plan, asker: Asker, work: list[Work], journal: Journal, tally: Tally, progress: Progress | None
) -> None:
    total = sum(len(names) for _, names in work)
    if progress:
        progress(0, total)
    seen = 0
    try:
        for outcomes in _asked(asker, _opened(_batches(work, plan.batch, plan.by_image)), plan.parallel):
            finished = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
            journal.add(finished)
            tally.finished += sum(p.done for p in finished)
            tally.failed += sum(not p.done for p in finished)
            tally.failures.update(p.error or "no reason was kept" for p in finished if not p.done)
            tally.open.update(outcome.reason for outcome in outcomes if isinstance(outcome, Open))
            seen += len(outcomes)
            if progress:
                progress(seen, total)
    except BudgetSpent as spent:
        tally.open[str(spent)] += total - seen


def _batches(work: Sequence[Work], size: int, by_image: bool) -> Iterator[list[Work]]:
    """Runs of ``size`` items, or more: the questions of one image stay together, up to four times that."""
    if not by_image:
        yield from (list(work[start : start + size]) for start in range(0, len(work), size))
        return
    batch: list[Work] = []
    for _, group in groupby(work, key=lambda each: each[0].path):
        for each in group:
            batch.append(each)
            if len(batch) >= 4 * size:
                yield batch
                batch = []
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def _opened(batches: Iterable[list[Work]], ahead: int = 2) -> Iterator[list[Job]]:
    """Jobs with their images, ``ahead`` batches being opened while one is asked."""

    def jobs(batch: list[Work]) -> list[Job]:
        looks: list[Look] = open_looks([item for item, _ in batch])
        return [Job(look, name) for look, (_, names) in zip(looks, batch, strict=True) for name in names]

    with ThreadPoolExecutor(2, thread_name_prefix="open") as pool:
        waiting: deque[Future[list[Job]]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(jobs, batch))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _asked(asker: Asker, opened: Iterable[list[Job]], parallel: int) -> Iterator[list[Outcome]]:
    """Outcomes batch by batch, in order for one batch at a time, else as they come."""
    if parallel == 1:
        for jobs in opened:
            yield asker.ask(jobs)
        return
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="ask")
    running: set[Future[list[Outcome]]] = set()
    failure: BaseException | None = None
    try:
        for jobs in opened:
            running.add(pool.submit(asker.ask, jobs))
            if len(running) >= parallel:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished if future.exception() is None)
                failure = next(filter(None, (future.exception() for future in finished)), None)
                if failure is not None:
                    break
        finished, _ = wait(running)  # what is under way has been paid for
        yield from (future.result() for future in finished if future.exception() is None)
        failure = failure or next(filter(None, (future.exception() for future in finished)), None)
    except KeyboardInterrupt as stop:  # nobody waits for the rest, but what has come is kept
        failure = stop
        yield from (f.result() for f in running if f.done() and not f.cancelled() and not f.exception())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure


def conclude(journal: Journal, info: RunInfo, tally: Tally) -> RunInfo:
    """Write what the folder holds now into ``run.json``; of several ranks the last one has it all."""
    if journal.session is not None:
        journal.reload()
    states = Counter(
        "done" if prediction.done else "failed"
        for key, prediction in journal.finished.items()
        if key[1] in info.planned.get(key[0], {})
    )
    total = sum(sum(sets.values()) for sets in info.planned.values())
    missing = sum(info.missing.get(name, 0) for sets in info.planned.values() for name in sets)
    counts = {
        "done": states["done"],
        "failed": states["failed"],
        "missing": missing,
        "pending": max(0, total - states["done"] - states["failed"] - missing),
    }
    seconds = tally.seconds if journal.session is None else 0.0  # of ranks the parent knows the wall time
    update = {"counts": counts, "pending": dict(tally.open), "seconds": info.seconds + seconds}
    return journal.save(info.model_copy(update=update))


def _as_before(plan: Plan, info: RunInfo, before: RunInfo) -> RunInfo:
    """Nothing is left to ask: the engine is the one that answered, unless its weights have changed."""
    engine = before.settings.get("engine", {})
    if plan.weights is not None and "weights" in engine:
        engine = {**engine, "weights": plan.weights()}
    return info.model_copy(update={"settings": {**before.settings, **info.settings, "engine": engine}})


def environment() -> dict[str, str]:
    """Versions and machine, for the record; none of it decides whether a run may continue."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "cpus": str(os.cpu_count())}
    for package in ("viscot", "torch", "transformers", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
