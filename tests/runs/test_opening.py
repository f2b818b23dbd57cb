"""Images of a benchmark: one that cannot be read fails its own items."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest
from PIL import Image

from viscot_core.errors import ImageError
from viscot_core.runs.opening import Work, open_items, opened_ahead
from viscot_core.tasks.base import Item

SIZE = (8, 8)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viscot_core.runs.opening.cores", lambda: 4)


def batches(*names: str) -> list[list[Work]]:
    """A batch for each of ``names``, of a question about each image whose letter it has."""
    return [
        [(Item("made", f"{batch}{at}", name, Path(name), SIZE, "What?"), ("cot", "direct"))
         for at, name in enumerate(letters)]
        for batch, letters in enumerate(names)
    ]  # fmt: skip


def test_no_decoder_ends_a_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS named .jpg is refused; a decoder that raises what none should raise fails its item alone."""

    def fails(_: Image.Image) -> None:
        raise OverflowError("cannot fit 'int' into an index-sized integer")

    (tmp_path / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, kind in (("good.jpg", "JPEG"), ("odd.jpg", "PNG")):
        Image.new("RGB", (9, 9)).save(tmp_path / name, kind)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fails)
    names = ("eps.jpg", "odd.jpg", "good.jpg")
    loaded = open_items([Item("a", name, name, tmp_path / name, (9, 9), "What?") for name in names])
    assert [item.error is None for item in loaded] == [False, False, True]
    assert "is a EPS file" in str(loaded[0].error) and "cannot fit 'int'" in str(loaded[1].error)


def test_files_of_one_batch_are_opened_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the four is done before all have begun: one thread, or one a batch, would break the barrier."""
    together = Barrier(4)

    def opens(_: Path) -> Image.Image:
        together.wait(timeout=20)
        return Image.new("RGB", SIZE)

    monkeypatch.setattr("viscot_core.runs.opening.open_image", opens)
    (queries,) = opened_ahead(batches("abcd"))
    assert all(query.loaded.view is not None for query in queries)


def test_order_and_errors_whichever_file_is_ready_first(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()
    later = Event()

    def opens(path: Path) -> Image.Image:
        opened[path.name] += 1
        if path.name == "a":  # the first is the last to be ready
            assert later.wait(20)
        if path.name == "c":
            later.set()
        if path.name == "b":
            raise ImageError("b is damaged")
        return Image.new("RGB", SIZE if path.name != "c" else (8, 4))

    monkeypatch.setattr("viscot_core.runs.opening.open_image", opens)
    (queries,) = opened_ahead(batches("abbca"))
    assert [query.loaded.item.image for query in queries] == list("aabbbbccaa")
    assert [query.strategy for query in queries] == ["cot", "direct"] * 5
    assert opened == Counter("abc")
    errors = {query.loaded.item.image: query.loaded.error for query in queries}
    assert errors["a"] is None and errors["b"] == "b is damaged" and "another image" in str(errors["c"])


def test_two_batches_are_open_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any file opened after the run has ended early."""
    opened: list[str] = []
    monkeypatch.setattr(
        "viscot_core.runs.opening.open_image", lambda path: opened.append(path.name) or Image.new("RGB", SIZE)
    )
    taken: list[int] = []

    def source() -> list[list[Work]]:
        for number, batch in enumerate(batches("ab", "cd", "ef", "gh", "ij")):
            taken.append(number)
            yield batch

    stream = opened_ahead(source())
    next(stream)
    assert taken == [0, 1, 2]
    next(stream)
    assert taken == [0, 1, 2, 3]
    stream.close()
    assert set(opened) <= set("abcdefgh") and len(opened) == len(set(opened))


def test_the_first_batch_is_opened_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there while files of the next ones are still being read."""
    opened: list[str] = []
    asked = Event()

    def opens(path: Path) -> Image.Image:
        opened.append(path.name)
        if path.name > "d":
            assert asked.wait(20)
        return Image.new("RGB", SIZE)

    monkeypatch.setattr("viscot_core.runs.opening.open_image", opens)
    stream = opened_ahead(batches("abcd", "efghijklmn", "opqrst"))
    assert {query.loaded.item.image for query in next(stream)} == set("abcd")
    assert set(opened[:4]) == set("abcd")
    asked.set()
    stream.close()


def test_a_run_that_is_stopped_opens_no_more_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for those in work, four at most, and for none of the sixteen that had not begun."""
    opened: list[str] = []
    stopped = Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    def opens(path: Path) -> Image.Image:
        opened.append(path.name)
        if path.name > "b":
            assert stopped.wait(20)
        return Image.new("RGB", SIZE)

    monkeypatch.setattr("viscot_core.runs.opening.ThreadPoolExecutor", Pool)
    monkeypatch.setattr("viscot_core.runs.opening.open_image", opens)
    stream = opened_ahead(batches("ab", "cdefghijkl", "mnopqrstuv"))
    next(stream)
    stream.close()
    assert set(opened) <= set("abcdef")
