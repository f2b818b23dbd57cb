"""Features of images: each encoded once, its pixels made ahead of their time, and no more than that."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from threading import Event, current_thread, main_thread

import pytest
from PIL import Image

from viscot_core.families.features import FeatureCache, PreparedImages
from viscot_core.images.view import View

IMAGE = Image.new("RGB", (1, 1))


class Feature(str):
    nbytes = 1


def views(names: str) -> list[View]:
    return [View(IMAGE, name) for name in names]


class Prepares:
    """Makes pixels, and notes of which images; those of ``held`` only once they are let go."""

    def __init__(self, held: str = "", broken: str = "") -> None:
        self.begun: list[str] = []
        self.held = {name: Event() for name in held}
        self.broken = broken
        self.ready = {name: Event() for name in "abcdefghijklmnop"}

    def __call__(self, view: View) -> str:
        self.begun.append(view.key)
        if view.key in self.held:
            assert self.held[view.key].wait(20)
        self.ready[view.key].set()
        if view.key in self.broken:
            raise OSError(f"{view.key} is broken")
        return view.key.upper()

    def wait(self, names: str) -> None:
        for name in names:
            assert self.ready[name].wait(20), name


def encode(pixels: Sequence[str]) -> list[Feature]:
    return [Feature(one * 2) for one in pixels]


def test_the_next_images_are_prepared_while_these_are_encoded() -> None:
    """Proven without a clock: the encoder of the first two waits until the next ones are ready."""
    prepares = Prepares()

    def encodes(pixels: Sequence[str]) -> list[Feature]:
        prepares.wait({"AB": "cd", "CD": "ef", "EF": "", "GH": ""}["".join(pixels)])
        return encode(pixels)

    cache = FeatureCache(prepares, encodes, threads=2, ahead=2, batch=2)
    cache.prefetch(views("abcdef"))
    assert cache.features(views("abcd")) == ["AA", "BB", "CC", "DD"]
    assert cache.features(views("ef")) == ["EE", "FF"]
    assert cache.features(views("gh")) == ["GG", "HH"], "nobody announced them"
    assert Counter(prepares.begun) == Counter("abcdefgh")


def test_no_more_wait_than_are_allowed() -> None:
    prepares = Prepares()
    images = PreparedImages(prepares, threads=4, ahead=3)
    images.announce(views("abcdefgh"))
    prepares.wait("abc")
    assert sorted(prepares.begun) == list("abc")
    assert images.take(views("a")) == ["A"]
    prepares.wait("d")
    assert sorted(prepares.begun) == list("abcd")
    images.announce(views("dh"))  # what is ready already stays, the rest is forgotten
    prepares.wait("h")
    assert images.take(views("hd")) == ["H", "D"]
    assert sorted(prepares.begun) == list("abcdh")


def test_another_order_than_was_announced() -> None:
    """An image that is wanted first is prepared now, and not once more in its turn."""
    prepares = Prepares()
    images = PreparedImages(prepares, threads=1, ahead=1)
    images.announce(views("abcd"))
    assert images.take(views("dc")) == ["D", "C"]
    assert images.take(views("ab")) == ["A", "B"]
    assert Counter(prepares.begun) == Counter("abcd")


def test_kept_features_are_not_prepared_again() -> None:
    prepares = Prepares()
    cache = FeatureCache(prepares, encode, threads=1, ahead=8)
    cache.features(views("a"))
    cache.prefetch(views("abab"))
    assert cache.features(views("ba")) == ["BB", "AA"]
    assert prepares.begun == ["a", "b"]
    cache.clear()
    assert cache.features(views("a")) == ["AA"] and prepares.begun == ["a", "b", "a"]


def test_a_broken_image_fails_those_who_ask_for_it() -> None:
    """Not the one before it, while it is being prepared; and the next try is a new one."""
    prepares = Prepares(broken="b")
    cache = FeatureCache(prepares, encode, threads=1, ahead=8, batch=1)
    cache.prefetch(views("abc"))
    assert cache.features(views("a")) == ["AA"]
    with pytest.raises(OSError, match="b is broken"):
        cache.features(views("b"))
    prepares.broken = ""
    assert cache.features(views("cb")) == ["CC", "BB"]


def test_without_threads_nothing_is_made_before_it_is_asked_for() -> None:
    where = []

    def prepare(view: View) -> str:
        where.append(current_thread())
        return view.key

    images = PreparedImages(prepare, threads=0, ahead=8)
    images.announce(views("abc"))
    assert not where
    assert images.take(views("ab")) == ["a", "b"] and set(where) == {main_thread()}


def test_a_forked_child_begins_anew() -> None:
    """It has what its parent began, and none of the threads that would end it."""
    prepares = Prepares(held="a")
    images = PreparedImages(prepares, threads=1, ahead=8)
    images.announce(views("abc"))
    child = os.fork()
    if child == 0:
        prepares.held["a"].set()
        os._exit(0 if images.take(views("ab")) == ["A", "B"] else 1)
    prepares.held["a"].set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert images.take(views("abc")) == ["A", "B", "C"]
