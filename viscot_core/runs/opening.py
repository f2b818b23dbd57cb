"""Images of items, opened ahead of the model, so that it never waits for a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from viscot_core.errors import ImageError
from viscot_core.images.reading import open_image
from viscot_core.images.view import View
from viscot_core.runs.records import Key
from viscot_core.tasks.base import Item

SAME_SHAPE = 0.02
"""How far the aspect ratio of a stored image may be from the row's; beyond it, boxes mean another image."""

Work = tuple[Item, tuple[str, ...]]
"""An item with the strategies it still lacks."""


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
    opened: dict[Path, View | str] = {}
    for item in items:
        # An error is kept as well: a broken file is not opened again for its next question.
        if item.path not in opened:
            try:
                opened[item.path] = View(open_image(item.path), str(item.path))
            except ImageError as error:
                opened[item.path] = str(error)
    return [_loaded(item, opened[item.path]) for item in items]


def _loaded(item: Item, found: View | str) -> LoadedItem:
    if isinstance(found, str):
        return LoadedItem(item, None, found)
    width, height = found.image.size
    if abs(width / height / (item.size[0] / item.size[1]) - 1) > SAME_SHAPE:
        row = f"{item.size[0]} x {item.size[1]}"
        return LoadedItem(item, None, f"the image is {width} x {height}, its row says {row}: another image")
    return LoadedItem(item, found)


def opened_ahead(batches: Iterable[list[Work]], ahead: int = 2) -> Iterator[list[Query]]:
    """Queries with their images; ``ahead`` batches are being opened while one is asked."""

    def queries(batch: list[Work]) -> list[Query]:
        loaded = open_items([item for item, _ in batch])
        return [Query(each, name) for each, (_, names) in zip(loaded, batch, strict=True) for name in names]

    with ThreadPoolExecutor(2, thread_name_prefix="open") as pool:
        waiting: deque[Future[list[Query]]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(queries, batch))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
