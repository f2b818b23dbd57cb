"""Many requests, one engine: prompts that wait at the same time run as one batch.

Each request runs the chain in its own thread with a ``Session`` for an engine; the sessions' prompts meet in
the ``Batcher``, whose one thread owns the real engine. First and second turns, direct and raw prompts mix
freely, so a batch is as large as the number of requests under way and nobody waits for another's second turn.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from typing import Any

from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.errors import EngineError
from viscot_core.families.llava.template import Template

log = logging.getLogger(__name__)

Watch = Callable[[int, float], None]
"""``(prompts of a batch, seconds it took)``, told after each batch."""


@dataclass(frozen=True, slots=True)
class _Job:
    request: Request
    done: Future[Generation] = field(default_factory=Future)


class Batcher:
    """Runs prompts on ``engine`` in one thread, ``batch`` at most together.

    A lone request never waits for company; while other sessions are open, a batch waits up to
    ``gather_seconds`` for their prompts.
    """

    def __init__(
        self, engine: Engine, *, batch: int = 16, gather_seconds: float = 0.02, watch: Watch | None = None
    ) -> None:
        self.engine = engine
        self._batch = batch
        self._gather = gather_seconds
        self._watch = watch
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._sessions = 0
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="viscot-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether prompts are still being run."""
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        """Prompts that no batch has taken yet."""
        return self._jobs.qsize()

    def submit(self, requests: Sequence[Request]) -> list[Future[Generation]]:
        """Put prompts in the queue; a future that is cancelled before its batch starts is never run."""
        with self._lock:
            if self._closed:
                raise EngineError("The server is shutting down; ask again in a moment.")
            jobs = [_Job(request) for request in requests]
            for job in jobs:
                self._jobs.put(job)
        return [job.done for job in jobs]

    def close(self) -> None:
        """Run what is queued, then stop."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def opened(self, change: int) -> None:
        """A session began (1) or ended (-1)."""
        with self._lock:
            self._sessions += change

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, stop = self._company(first)
            live = [job for job in jobs if job.done.set_running_or_notify_cancel()]
            if live:
                start = time.perf_counter()
                self._run(live)
                if self._watch is not None:
                    self._watch(len(live), time.perf_counter() - start)
            if stop:
                return

    def _company(self, first: _Job) -> tuple[list[_Job], bool]:
        """``first`` with what else is queued or comes soon, and whether the queue was closed meanwhile."""
        jobs = [first]
        until = time.perf_counter() + self._gather
        while len(jobs) < self._batch:
            expects_more = self._sessions > len(jobs)
            left = until - time.perf_counter()
            try:
                job = self._jobs.get(timeout=left) if expects_more and left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _run(self, jobs: Sequence[_Job]) -> None:
        try:
            said = self.engine.generate([job.request for job in jobs])
            for job, one in zip(jobs, said, strict=True):
                job.done.set_result(one)
        except EngineError as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            log.warning("A batch of %d failed (%s); its prompts are run one by one.", len(jobs), error)
            for job in jobs:
                self._run([job])
        except Exception as error:  # the thread's edge: told to every request, and logged
            log.exception("The engine failed on a batch of %d.", len(jobs))
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(EngineError(f"The engine failed ({type(error).__name__})."))


class Session:
    """One request's engine: the batcher's, with a count of tokens and a way to stop from another thread."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._lock = threading.Lock()
        self._stopped = False
        self._futures: list[Future[Generation]] = []
        self.name: str = batcher.engine.name
        self.template: Template = batcher.engine.template
        self.identity: dict[str, str] = batcher.engine.identity
        self.prompt_tokens = 0
        self.new_tokens = 0
        self.finished = True

    def __enter__(self) -> Session:
        self._batcher.opened(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._batcher.opened(-1)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """As the engine's; raises EngineError once the session was stopped."""
        requests = [replace(request, cancelled=self._is_stopped) for request in requests]
        tokens: Any = getattr(self._batcher.engine, "tokens", None)
        if tokens is not None:
            self.prompt_tokens += sum(len(tokens.encode(request.rendered).ids) for request in requests)
        with self._lock:
            if self._stopped:
                raise EngineError("The request was stopped.")
            self._futures = self._batcher.submit(requests)
        try:
            said = [future.result() for future in self._futures]
        except CancelledError as error:
            raise EngineError("The request was stopped.") from error
        self.new_tokens += sum(one.tokens for one in said)
        self.finished = all(one.finished for one in said)
        return said

    def stop(self) -> None:
        """Give up: what is queued is never run, what runs ends at its next token, more is refused."""
        with self._lock:
            self._stopped = True
            for future in self._futures:
                future.cancel()

    def _is_stopped(self) -> bool:
        return self._stopped
