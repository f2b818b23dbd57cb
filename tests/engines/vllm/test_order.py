"""One prompt of an image goes ahead, and the others begin once it was read."""

from __future__ import annotations

from viscot_core.engines.vllm.order import ImageOrder


def test_the_first_prompt_of_an_image_goes_ahead() -> None:
    order = ImageOrder()
    assert order.add(1, {"a"}) == [1]
    assert order.add(2, {"a"}) == []
    assert order.add(3, {"b"}) == [3]
    assert order.add(4, {"a"}) == []
    assert order.read(1) == [2, 4]
    # While one of them is open the image is known, and nobody waits.
    assert order.add(5, {"a"}) == [5]
    assert [order.end(number) for number in (1, 2, 4, 5)] == [[], [], [], []]
    # Afterwards it may have been thrown out: again one goes ahead.
    assert order.add(6, {"a"}) == [6]
    assert order.add(7, {"a"}) == []


def test_a_prompt_that_ends_unread_lets_the_next_go_ahead() -> None:
    order = ImageOrder()
    assert order.add(1, {"a"}) == [1]
    assert order.add(2, {"a"}) == []
    assert order.add(3, {"a"}) == []
    assert order.end(1) == [2]
    assert order.end(2) == [3]


def test_a_second_turn_waits_for_its_crop_alone() -> None:
    order = ImageOrder()
    assert order.add(1, {"a"}) == [1]
    order.read(1)
    assert order.add(2, {"a", "a###crop"}) == [2]
    assert order.add(3, {"a"}) == [3]
    assert order.add(4, {"a", "a###crop"}) == []
    assert order.read(2) == [4]


def test_prompts_without_images_never_wait() -> None:
    order = ImageOrder()
    assert order.add(1, ()) == [1]
    assert order.add(2, ()) == [2]
    assert order.end(2) == []
    assert order.read(1) == []
    assert order.end(1) == []
