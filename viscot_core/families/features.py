"""Features of images: encoded once, kept until their memory is needed, forgotten when the weights change.

Pixels are made by threads, and for the images that come next before they are asked for.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from viscot_core.images.view import View

AHEAD = 64
"""Images whose pixels wait for their turn at most (1.3 MiB each at 336 pixels a side)."""


class Sized(Protocol):
    """What knows how many bytes it takes, as tensors do."""

    @property
    def nbytes(self) -> int: ...


P = TypeVar("P")
F = TypeVar("F", bound=Sized)


class FeatureCache(Generic[P, F]):
    """Features of images by ``View.key``, the least recently used dropped beyond ``max_bytes``.

    ``prepare`` makes an image's pixels (``threads`` and ``ahead`` as ``PreparedImages`` says), ``encode`` the
    features of at most ``batch`` images at once. ``encoded`` and ``reused`` count images, for the tests and
    the benchmark's report.
    """

    def __init__(
        self,
        prepare: Callable[[View], P],
        encode: Callable[[Sequence[P]], Sequence[F]],
        *,
        threads: int = 0,
        ahead: int = 0,
        max_bytes: int = 512 << 20,
        batch: int = 16,
    ) -> None:
        self._pixels = PreparedImages(prepare, threads=threads, ahead=ahead)
        self._encode = encode
        self._max_bytes = max_bytes
        self._batch = batch
        self._kept: OrderedDict[str, F] = OrderedDict()
        self._bytes = 0
        self.encoded = 0
        self.reused = 0

    def prefetch(self, views: Iterable[View]) -> None:
        """The views that ``features`` will be asked for next, in order, instead of those named before."""
        self._pixels.announce(view for view in views if view.key not in self._kept)

    def features(self, views: Sequence[View]) -> list[F]:
        """The features of each view; views of one key are encoded once."""
        wanted = {view.key: view for view in views}
        # `found` holds them for this call, even where the cache drops them on the way.
        found = {key: self._kept[key] for key in wanted if key in self._kept}
        self.reused += len(views) - len(wanted) + len(found)
        missing = [view for key, view in wanted.items() if key not in found]
        for start in range(0, len(missing), self._batch):
            group = missing[start : start + self._batch]
            pixels = self._pixels.take(group)
            self.encoded += len(group)
            for view, feature in zip(group, self._encode(pixels), strict=True):
                found[view.key] = feature
                self._keep(view.key, feature)
        for key in found:
            if key in self._kept:
                self._kept.move_to_end(key)
        return [found[view.key] for view in views]

    def clear(self) -> None:
        """Drop all that is kept, and the pixels that wait."""
        self._pixels.announce(())
        self._kept.clear()
        self._bytes = 0

    def _keep(self, key: str, feature: F) -> None:
        self._kept[key] = feature
        self._bytes += feature.nbytes
        # The newest stays, even if it is larger than the limit.
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes


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
