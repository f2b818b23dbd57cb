"""Pixels of images: made by threads, and for the images that come next before they are asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from viscot_core.images.view import View

P = TypeVar("P")


class PreparedImages(Generic[P]):
    """What ``prepare`` makes of images (of which one name is one image), by ``threads``.

    At most ``ahead`` images wait for their turn, ready or in work. Without threads, and of an image that
    nobody announced, nothing is made before it is taken.
    """

    def __init__(self, prepare: Callable[[View], P], *, threads: int, ahead: int) -> None:
        self._prepare = prepare
        self._threads = threads
        self._ahead = ahead if threads else 0
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._begun: dict[str, Future[P]] = {}
        self._next: OrderedDict[str, View] = OrderedDict()

    def announce(self, views: Iterable[View]) -> None:
        """The images that are taken next, in order; what was announced before them is forgotten."""
        self._leave_parents_work()
        self._next = OrderedDict((view.key, view) for view in views)
        for key in [key for key in self._begun if key not in self._next]:
            self._begun.pop(key).cancel()
        self._begin()

    def take(self, views: Sequence[View]) -> list[P]:
        """What was made of each view. An image that ``prepare`` fails on raises here."""
        if not self._threads:
            return [self._prepare(view) for view in views]
        self._leave_parents_work()
        futures = []
        for view in views:
            self._next.pop(view.key, None)
            begun = view.key in self._begun
            futures.append(self._begun.pop(view.key) if begun else self._submit(view))
        self._begin()  # before the wait: the threads go on meanwhile
        return [future.result() for future in futures]

    def _begin(self) -> None:
        """Begin with as many of the next images as may wait."""
        while self._next and len(self._begun) < self._ahead:
            key, view = self._next.popitem(last=False)
            if key not in self._begun:
                self._begun[key] = self._submit(view)

    def _submit(self, view: View) -> Future[P]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="viscot-pixels")
        return self._pool.submit(self._prepare, view)

    def _leave_parents_work(self) -> None:
        """A forked child inherits what its parent began, but not the threads that would end it."""
        if self._process != os.getpid():
            self._process, self._pool = os.getpid(), None
            self._begun.clear()
            self._next.clear()
