"""Threads that do many things side by side and hand out each as it ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """At most ``count`` threads, started as they are needed; each calls ``at_end`` before it ends.

    They are daemons: an interrupted command waits for no reply.
    """

    def __init__(self, count: int, at_end: Callable[[], None]) -> None:
        self._count, self._at_end = count, at_end
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the threads; what is under way ends by itself, and nobody waits for it."""
        for _ in self._threads:
            self._jobs.put(None)

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """``(number of the item, work(item))`` in the order of their ends.

        An exception of ``work`` is raised here: no other item is begun after it, and what those under way
        bring is handed out before.
        """
        ended: queue.SimpleQueue[tuple[int, list[Result]]] = queue.SimpleQueue()
        errors: list[BaseException] = []
        over = threading.Event()

        def job(number: int, item: Item) -> None:
            results = []
            try:
                if not over.is_set():
                    results.append(work(item))
            except BaseException as error:  # noqa: BLE001 - the thread's edge: raised again in the caller's
                errors.append(error)
                over.set()
            # An empty list says that the item was not begun, or failed; ``each`` counts on one entry an item.
            ended.put((number, results))

        try:
            for number, item in enumerate(items):
                self._submit(partial(job, number, item))
            for _ in items:
                number, results = ended.get()
                yield from ((number, result) for result in results)
        finally:
            over.set()
        if errors:
            raise errors[0]

    def _submit(self, job: Callable[[], None]) -> None:
        """To an idle thread or a new one."""
        with self._lock:
            # The semaphore counts idle threads: taken here, given back when a job ends. None idle and room
            # for more: start one; else the job waits in the queue.
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
                thread = threading.Thread(target=self._run_jobs, daemon=True, name="call")
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            self._idle.release()
        self._at_end()
