"""The one loop of every task: open images ahead, ask in batches, write what is finished at once.

The model is loaded once, and all strategies of an item are asked together (they share its image and the
model's box). A kill loses the batch in flight; the same call again does what is left. The text of an item
does not depend on its batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from viscot_core.errors import BudgetSpent
from viscot_core.runs.answering import Pending
from viscot_core.runs.journal import Journal, at_its_address
from viscot_core.runs.opening import Query, Work, opened_ahead
from viscot_core.runs.records import Prediction, RunInfo
from viscot_core.runs.shards import Shard, launch
from viscot_core.runs.tally import Tally, conclude, environment, with_versions
from viscot_core.tasks.base import Benchmark

TOGETHER = 16
"""Questions about one image that are asked together however few items fit: they hold the image once."""
Progress = Callable[[int, int], None]
"""``(finished, total)`` queries, called after every batch."""
Ask = Callable[[Sequence[Query]], list[Prediction | Pending]]
"""What became of each query, in order; raises EngineError when nothing more can be asked."""
Stream = Callable[[Iterable[list[Query]]], Iterator[list[Prediction | Pending]]]
"""What became of queries that are opened meanwhile, as they are finished."""


@dataclass(frozen=True)
class RunPlan:
    """What to ask of whom, where to keep it.

    ``settings`` are all that changes an answer and is known before the model is loaded. ``batch`` items are
    asked together, ``parallel`` batches at once; ``by_image`` keeps the questions of an image in one batch,
    for an engine that saves by it.
    """

    folder: Path
    kind: str
    benchmark: Benchmark
    strategies: tuple[str, ...]
    settings: dict[str, Any]
    model: str
    data: Path
    batch: int = 16
    parallel: int = 1
    by_image: bool = True
    weights: Callable[[], str | None] | None = None
    """Their hash, had without loading them (None: a server's): a run belongs to the weights it began with."""
    shard: Shard = field(default_factory=Shard)
    same_engine: bool = False
    """The user says that the server is the one of the folder's record, whatever its address."""
    extra: dict[str, str] = field(default_factory=dict)

    def info(self) -> RunInfo:
        """The run's ``run.json`` before any engine is there."""
        counts = self.benchmark.planned()
        return RunInfo(
            kind=self.kind,
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
    """A way to ask a loaded engine, and what it alone knows: its identity, the digest of the prompts."""

    ask: Ask
    settings: dict[str, Any]
    batch: int | None = None
    """How many items are asked together; None: as planned."""
    versions: Callable[[], frozenset[str]] = frozenset
    """What servers have said of themselves so far."""
    stream: Stream | None = None
    """Where questions end at different steps: asks instead of ``ask``, and keeps its batch full."""


def run(
    plan: RunPlan, build: Callable[[], Built], *, progress: Progress | None = None
) -> tuple[RunInfo, Tally]:
    """Do what is left of ``plan``; ``build`` loads the model and is not called where nothing is left.

    Raises:
        UsageError: the folder belongs to other settings, or another process writes to it.
        EngineError: the engine is gone; what was finished is kept.
    """
    tally = Tally()
    with Journal(plan.folder, rank=plan.shard.rank, session=plan.shard.session) as journal:
        info = plan.info()
        # Before any model is loaded: what is known by now must fit already.
        journal.check(info)
        work = left(plan, journal)
        # Another name may be another model: that one is loaded, and ``begin`` compares what it is.
        if not work and journal.info is not None and journal.info.model == plan.model:
            return conclude(journal, journal.begin(_as_before(plan, info, journal.info)), tally), tally
        built = build()
        settings = {**info.settings, **built.settings}
        if plan.same_engine and journal.info is not None:
            settings["engine"] = at_its_address(settings.get("engine", {}), journal.info)
        info = journal.begin(info.model_copy(update={"settings": settings}))
        start = time.perf_counter()
        try:
            _loop(replace(plan, batch=built.batch or plan.batch), built, work, journal, tally, progress)
        finally:
            tally.seconds = time.perf_counter() - start
            info = conclude(journal, with_versions(info, built.versions()), tally)
    return info, tally


def run_sharded(plan: RunPlan, job: bytes, gpus: int) -> tuple[RunInfo, Tally]:
    """Do what is left of ``plan`` on ``gpus`` ranks, each of which unpickles ``job``.

    Raises:
        UsageError, EngineError: as ``run``; a rank that dies is an EngineError once all is joined.
    """
    tally = Tally()
    with Journal(plan.folder) as journal:
        info = plan.info()
        journal.check(info)
        work = left(plan, journal)
        # Closed again before the ranks start: they share the lock that this journal has for itself.
        if not work and journal.info is not None and journal.info.model == plan.model:
            return conclude(journal, journal.begin(_as_before(plan, info, journal.info)), tally), tally
    start = time.perf_counter()
    try:
        launch(job, gpus)
    finally:
        # All ranks have ended: this journal joins what they wrote.
        with Journal(plan.folder) as journal:
            tally.seconds = time.perf_counter() - start
            asked = {(name, item.dataset, str(item.question_id)) for item, names in work for name in names}
            tally.count([p for key, p in journal.finished.items() if key in asked])
            tally.open.update(journal.left_open)
            if journal.info is not None:
                info = conclude(journal, journal.info, tally)
    return info, tally


def left(plan: RunPlan, journal: Journal) -> list[Work]:
    """The items with the strategies that are not done, this rank's share, items of one image together."""
    order: dict[Path, int] = {}
    for item in plan.benchmark.items:
        order.setdefault(item.path, len(order))
    work: list[Work] = []
    for item in sorted(plan.benchmark.items, key=lambda item: order[item.path]):
        # By image, not by item: a rank then computes an image once for all questions about it.
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
    plan: RunPlan, built: Built, work: list[Work], journal: Journal, tally: Tally, progress: Progress | None
) -> None:
    total = sum(len(names) for _, names in work)
    if progress:
        progress(0, total)
    seen = 0
    try:
        opened = opened_ahead(_batches(work, plan.batch, plan.by_image))
        for outcomes in built.stream(opened) if built.stream else _asked(built.ask, opened, plan.parallel):
            finished = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
            journal.add(finished)
            tally.count(finished)
            tally.open.update(outcome.reason for outcome in outcomes if isinstance(outcome, Pending))
            seen += len(outcomes)
            if progress:
                progress(seen, total)
    except BudgetSpent as spent:
        tally.open[str(spent)] += total - seen


def _batches(work: Sequence[Work], size: int, by_image: bool) -> Iterator[list[Work]]:
    """Runs of ``size`` items, or more: the questions of one image stay together, up to four times that, or
    `TOGETHER`.

    The more questions an image has, the less each of them costs: a question counts a quarter, an image the
    rest, so that ``size`` images with a question each are a run.
    """
    if not by_image:
        yield from (list(work[start : start + size]) for start in range(0, len(work), size))
        return
    batch: list[Work] = []
    images = 0
    for _, group in groupby(work, key=lambda each: each[0].path):
        images += 1
        for each in group:
            batch.append(each)
            if len(batch) >= max(4 * size, TOGETHER):
                yield batch
                # The questions of this image go on in the next batch, which pays for it again.
                batch, images = [], 1
        # A question weighs 1 and an image 3: an image with one question weighs 4, and ``size`` of those fill
        # a batch.
        if len(batch) + 3 * images >= 4 * size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _asked(ask: Ask, opened: Iterable[list[Query]], parallel: int) -> Iterator[list[Prediction | Pending]]:
    """Outcomes batch by batch, in order for one batch at a time, else as they come."""
    if parallel == 1:
        for queries in opened:
            yield ask(queries)
        return
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="ask")
    running: set[Future[list[Prediction | Pending]]] = set()
    failure: BaseException | None = None
    try:
        for queries in opened:
            running.add(pool.submit(ask, queries))
            if len(running) >= parallel:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                # What was answered is handed out, and so kept, before the failure of another batch is raised.
                yield from (future.result() for future in finished if future.exception() is None)
                failure = next(filter(None, (future.exception() for future in finished)), None)
                if failure is not None:
                    break
        finished, _ = wait(running)  # calls that were sent are paid for
        yield from (future.result() for future in finished if future.exception() is None)
        failure = failure or next(filter(None, (future.exception() for future in finished)), None)
    except KeyboardInterrupt as stop:  # the rest is dropped, but finished batches are kept
        failure = stop
        yield from (f.result() for f in running if f.done() and not f.cancelled() and not f.exception())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure


def _as_before(plan: RunPlan, info: RunInfo, before: RunInfo) -> RunInfo:
    """Nothing is left to ask: the engine is the one that answered, unless its weights have changed."""
    engine = before.settings.get("engine", {})
    if "weights" in engine and plan.weights is not None and (now := plan.weights()) is not None:
        engine = {**engine, "weights": now}
    return info.model_copy(update={"settings": {**before.settings, **info.settings, "engine": engine}})
