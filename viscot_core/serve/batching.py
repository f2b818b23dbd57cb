"""Many requests, one engine: prompts that wait at the same time run as one batch.

Each request runs ``rollout.run`` in its own thread, with a ``Session`` as its engine. The sessions send
their prompts to the ``Batcher``, whose single thread owns the real engine. First turns, second turns, direct
and raw prompts share batches, so that no request waits for the second turn of another. An engine that takes
several calls at the same time batches by itself: there each prompt is a call, and none waits for another.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace

from viscot_core.conversation import Message
from viscot_core.engines.base import Engine, Generation, Request, Traits
from viscot_core.errors import EngineError

log = logging.getLogger(__name__)

OnBatch = Callable[[int, float], None]
"""``(prompts of a batch, seconds it took)``, called after each batch."""


@dataclass(frozen=True, slots=True)
class _Job:
    request: Request
    done: Future[Generation] = field(default_factory=Future)


class Batcher:
    """Runs prompts on ``engine``, at most ``batch`` of them together, or as many calls as it takes at a time.

    A single request starts at once; while other sessions are open, a batch waits up to ``gather_seconds`` for
    their prompts. An engine that cannot answer (a server that refuses the account) is asked in earnest again
    with the first prompt after ``retry_seconds``.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch: int = 16,
        gather_seconds: float = 0.02,
        retry_seconds: float = 5.0,
        on_batch: OnBatch | None = None,
    ) -> None:
        self.engine = engine
        calls = engine.traits.parallel
        self._batch = batch if calls == 1 else 1
        self._gather = gather_seconds
        self._on_batch = on_batch
        self._retry_seconds = retry_seconds
        self._retry_at = 0.0
        self.failures = 0
        """Calls of the engine in a row that failed."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._sessions = 0
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"viscot-engine-{number}", daemon=True)
            for number in range(calls)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether prompts are still being run."""
        return all(thread.is_alive() for thread in self._threads) and not self._closed

    @property
    def is_failing(self) -> bool:
        """Whether several calls failed in a row, and it is too early to try again."""
        return self.failures >= 3 and time.monotonic() < self._retry_at

    @property
    def waiting(self) -> int:
        """Prompts that no batch has taken yet."""
        return self._jobs.qsize()

    def submit(self, requests: Sequence[Request]) -> list[Future[Generation]]:
        """Put prompts in the queue; a future that is cancelled before its batch starts is never run."""
        with self._lock:
            # Under the lock: no prompt is queued behind the None that ends the thread.
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
                for _ in self._threads:
                    self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def count_session(self, change: int) -> None:
        """Note that a session began (1) or ended (-1)."""
        with self._lock:
            self._sessions += change

    def _work(self) -> None:
        # A call for each batch: a loop's variables would hold the last batch, its images too, until the next.
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Run the next batch; False when the batcher was closed."""
        first = self._jobs.get()
        if first is None:
            return False
        jobs, stop = self._gather_batch(first)
        # False for a job that was cancelled while it waited; from here on its future cannot be cancelled.
        live = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        if live:
            start = time.perf_counter()
            self._run(live)
            if self._on_batch is not None:
                self._on_batch(len(live), time.perf_counter() - start)
        return not stop

    def _gather_batch(self, first: _Job) -> tuple[list[_Job], bool]:
        """``first`` and what else is queued or comes soon; and whether the batcher was closed meanwhile."""
        jobs = [first]
        until = time.perf_counter() + self._gather
        while len(jobs) < self._batch:
            # A session waits for its prompt before it sends the next: with every open session in the
            # batch, none can come.
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
            if self._is_time_to_retry():
                self.engine.reset()
            generations = self.engine.generate([job.request for job in jobs])
            self.failures = 0
            for job, generation in zip(jobs, generations, strict=True):
                job.done.set_result(generation)
        except EngineError as error:
            self._note_failure(error)
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            log.warning("A batch of %d failed (%s); its prompts are run one by one.", len(jobs), error)
            # Run alone, a prompt that the engine refuses fails only its own request.
            for job in jobs:
                self._run([job])
        except Exception as error:  # the thread's edge: every request gets an error, and it is logged
            self._note_failure(error)
            log.exception("The engine failed on a batch of %d.", len(jobs))
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(EngineError(f"The engine failed ({type(error).__name__})."))

    def _is_time_to_retry(self) -> bool:
        """Whether the engine failed long enough ago; True for one thread alone, until the next time."""
        with self._lock:
            due = bool(self.failures) and time.monotonic() >= self._retry_at
            if due:
                self._retry_at = time.monotonic() + self._retry_seconds
            return due

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            if not self.failures:
                self._retry_at = time.monotonic() + self._retry_seconds
                log.warning("The engine cannot answer: %s", error)
            self.failures += 1


class Session:
    """One request's ``Engine``: the batcher's, which counts the request's tokens and can be stopped.

    ``stop`` may be called from another thread than the one that generates.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._lock = threading.Lock()
        self._stopped = False
        self._futures: list[Future[Generation]] = []
        self.prompt_tokens = 0
        self.new_tokens = 0

    def __enter__(self) -> Session:
        self._batcher.count_session(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._batcher.count_session(-1)

    @property
    def name(self) -> str:
        return self._batcher.engine.name

    @property
    def identity(self) -> dict[str, str]:
        return self._batcher.engine.identity

    @property
    def traits(self) -> Traits:
        return self._batcher.engine.traits

    def prompt(self, messages: Sequence[Message]) -> str:
        """As the engine's."""
        return self._batcher.engine.prompt(messages)

    def reset(self) -> None:
        """Do nothing: a session keeps nothing that depends on the weights; the engine is shared by all."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """As the engine's.

        Raises:
            EngineError: also once the session was stopped.
        """
        requests = [replace(request, cancelled=self.is_stopped) for request in requests]
        with self._lock:
            # Checked and submitted under one lock: a stop in between would find no future to cancel.
            if self._stopped:
                raise EngineError("The request was stopped.")
            self._futures = self._batcher.submit(requests)
        try:
            generations = [future.result() for future in self._futures]
        except CancelledError as error:
            raise EngineError("The request was stopped.") from error
        self.prompt_tokens += sum(each.prompt_tokens for each in generations)
        self.new_tokens += sum(each.tokens for each in generations)
        return generations

    def stop(self) -> None:
        """Stop the request: its queued prompts never run, a running one ends at its next token."""
        with self._lock:
            self._stopped = True
            for future in self._futures:
                future.cancel()

    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped
