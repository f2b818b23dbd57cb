"""Images of items, opened ahead of the model, so that it never waits for a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from viscot_core.errors import ImageError
from viscot_core.hardware import cores
from viscot_core.images.reading import open_image
from viscot_core.images.view import View
from viscot_core.runs.records import Key
from viscot_core.tasks.base import Item

SAME_SHAPE = 0.02
"""How far the aspect ratio of a stored image may be from the row's; beyond it, boxes mean another image."""

MOST_THREADS = 16
"""Threads that open files, where the machine has as many cores."""

Work = tuple[Item, tuple[str, ...]]
"""An item with the strategies it still lacks."""

Opening = dict[Path, "Future[View | str]"]
"""The files of a batch, each opened once: what it shows, or why it cannot be read."""


@dataclass(frozen=True)
class LoadedItem:
    """An item with its image, or with the reason why it has none."""

    item: Item
    view: View | None
    error: str | None = None


@dataclass(frozen=True)
class Query:
    """One line of the journal to be: an item under one strategy."""

    loaded: LoadedItem
    strategy: str

    @property
    def key(self) -> Key:
        return (self.strategy, self.loaded.item.dataset, str(self.loaded.item.question_id))


def open_items(items: Sequence[Item]) -> list[LoadedItem]:
    """Open the items' images, each file once; an unreadable one fails its items alone."""
    with _threads() as pool:
        return _collect(items, _begin(items, pool))


def opened_ahead(batches: Iterable[list[Work]], ahead: int = 2) -> Iterator[list[Query]]:
    """Queries with their images; ``ahead`` batches are being opened while one is asked.

    The threads open file by file, so that the first batch, for which everything waits, has them all.
    """
    waiting: deque[tuple[list[Work], Opening]] = deque()
    with _threads() as pool:
        for batch in batches:
            waiting.append((batch, _begin([item for item, _ in batch], pool)))
            if len(waiting) > ahead:
                yield _queries(*waiting.popleft())
        while waiting:
            yield _queries(*waiting.popleft())


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that open files; decoders let go of the interpreter while they work."""
    pool = ThreadPoolExecutor(min(MOST_THREADS, cores()), thread_name_prefix="open")
    try:
        yield pool
    finally:
        # What has not begun is not opened any more where Ctrl-C ends the wait for it.
        pool.shutdown(cancel_futures=True)


def _begin(items: Sequence[Item], pool: ThreadPoolExecutor) -> Opening:
    return {path: pool.submit(_open, path) for path in dict.fromkeys(item.path for item in items)}


def _open(path: Path) -> View | str:
    try:
        return View(open_image(path), str(path))
    except ImageError as error:
        # Kept as well: a broken file is not opened again for its next question.
        return str(error)


def _collect(items: Sequence[Item], opening: Opening) -> list[LoadedItem]:
    return [_loaded(item, opening[item.path].result()) for item in items]


def _queries(batch: list[Work], opening: Opening) -> list[Query]:
    loaded = _collect([item for item, _ in batch], opening)
    return [Query(each, name) for each, (_, names) in zip(loaded, batch, strict=True) for name in names]


def _loaded(item: Item, found: View | str) -> LoadedItem:
    if isinstance(found, str):
        return LoadedItem(item, None, found)
    width, height = found.image.size
    if abs(width / height / (item.size[0] / item.size[1]) - 1) > SAME_SHAPE:
        row = f"{item.size[0]} x {item.size[1]}"
        return LoadedItem(item, None, f"the image is {width} x {height}, its row says {row}: another image")
    return LoadedItem(item, found)
