"""What the page keeps of its visitors' images: the files, within a limit, until they leave."""

from __future__ import annotations

from viscot_core.demo.images import ImageStore


def test_the_oldest_files_make_room_for_new_ones() -> None:
    store = ImageStore(100)
    first = store.put("a", b"x" * 60, (6, 10))
    second = store.put("b", b"y" * 40, (4, 10))
    assert store.get(first) == b"x" * 60 and first.size == (6, 10)
    third = store.put("c", b"z" * 40, (4, 10))
    assert store.get(second) is None, "the first was used after the second"
    assert store.get(first) and store.get(third) and store.held == 100


def test_a_session_has_one_image_and_none_when_it_has_left() -> None:
    store = ImageStore(100)
    first, other = store.put("a", b"x" * 10, (1, 1)), store.put("b", b"y" * 10, (1, 1))
    second = store.put("a", b"z" * 20, (1, 1))
    assert store.get(first) is None and store.held == 30
    store.drop("a")
    assert store.get(second) is None and store.get(other) == b"y" * 10
    store.forget(other)
    assert store.held == 0
