"""What the page is sent while a question is answered, without a browser."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image
from serve_help import WORDING, Looker, Slow

from viscot_core.boxes.geometry import Box
from viscot_core.demo.backend import Card, DemoBackend, box_of
from viscot_core.demo.models import DemoModel, Ready
from viscot_core.demo.queue import VisitorQueue
from viscot_core.engines.base import Generation, Request
from viscot_core.errors import CheckpointError, EngineError, UsageError
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.serve.batching import Batcher


def open_image() -> Image.Image:
    return Image.new("RGB", (400, 200))


def offered(batcher: Batcher, label: str = "looker", zoom: ZoomSettings | None = None) -> DemoModel:
    return DemoModel(label, lambda: Ready(batcher, WORDING, zoom))


@contextmanager
def backend(engine: Looker, zoom: ZoomSettings | None = None, **options: Any) -> Iterator[DemoBackend]:
    batcher = Batcher(engine)
    try:
        model = offered(batcher, zoom=zoom)
        model.ready()
        yield DemoBackend([model], **options)
    finally:
        batcher.close()


def test_a_card_looks_then_reads_then_grows_word_by_word() -> None:
    with backend(Looker()) as here:
        cards: list[Card] = [all_cards[0] for all_cards in here.ask(open_image, "What?", ["cot"])]
    assert [card.state for card in cards] == [
        "looking",
        *["reading"] * 5,
        "done",
    ]
    assert [card.text for card in cards] == [
        "",
        "",
        "seen",
        "seen 224",
        "seen 224 x",
        *["seen 224 x 200"] * 2,
    ]
    region = cards[-1].region
    assert region is not None and region.box == (200, 0, 300, 100) and region.crop == (138, 0, 362, 200)
    assert cards[-1].seconds is not None and cards[0].region is None


class Twice(Looker):
    """Looks at a crop of the crop before it answers."""

    def _say(self, request: Request) -> Generation:
        return Generation(self.box if len(request.images) < 3 else "a fox", 4, True)


def test_every_look_of_the_zoom_loop_is_on_the_card() -> None:
    with backend(Twice(), zoom=ZoomSettings()) as here:
        *_, last = here.ask(open_image, "What?", ["cot"])
    (card,) = last
    assert (card.state, card.text) == ("done", "a fox")
    assert [look.crop for look in card.looks] == [(138, 0, 362, 200), (166, 0, 390, 200)]
    assert card.region == card.looks[-1] and len(card.plain()["looks"]) == 2


def test_each_word_is_on_the_page_before_the_next_is_made() -> None:
    engine = Slow()
    with backend(engine) as here:
        cards = here.ask(open_image, "What?", ["direct"])
        assert next(cards)[0].text == ""
        for text in ("seen", "seen 400", "seen 400 x", "seen 400 x 200"):
            engine.step.release()
            assert next(cards)[0].text == text == engine.texts[-1]
        assert next(cards)[0].state == "done"


def test_an_answer_stops_when_the_visitor_leaves() -> None:
    engine = Slow()
    with backend(engine) as here:
        cards = here.ask(open_image, "What?", ["direct"])
        next(cards)
        engine.step.release()
        next(cards)
        cards.close()  # type: ignore[attr-defined]
        assert engine.left.wait(10) and engine.texts == ["seen"]


def test_two_ways_side_by_side_share_a_batch() -> None:
    engine = Looker(seconds=0.05)
    with backend(engine) as here:
        *_, (cot, direct) = here.ask(open_image, "What?", ["cot", "direct"])
    assert (cot.text, direct.text) == ("seen 224 x 200", "seen 400 x 200")
    assert direct.region is None and sum(engine.batches) == 3


def test_an_own_box_is_answered_without_asking_for_one() -> None:
    engine = Looker()
    with backend(engine) as here:
        *_, (card,) = here.ask(open_image, "What?", ["box"], Box(0.0, 0.25, 0.1, 0.5))
    assert card.region is not None and card.region.crop == (0, 0, 224, 200) and len(engine.prompts) == 1


def test_a_failed_answer_is_a_card_that_says_so() -> None:
    engine = Looker(error="the prompt does not fit")
    with backend(engine) as here:
        *_, (card,) = here.ask(open_image, "What?", ["cot"])
        assert card.state == "failed" and card.note == "the prompt does not fit"
        assert len(engine.prompts) == 1, "a failed first turn costs no second call"
        with pytest.raises(UsageError, match="empty"):
            next(here.ask(open_image, "  ", ["cot"]))


def test_those_who_wait_see_how_many_are_before_them() -> None:
    with backend(Looker(seconds=0.2), places=1, length=2) as here:
        first = here.ask(open_image, "What?", ["direct"])
        next(first)
        notes: list[list[str]] = [[], []]

        def wait(number: int) -> None:
            for cards in here.ask(open_image, "What?", ["direct"]):
                notes[number].append(cards[0].note)

        threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(2)]
        for number, thread in enumerate(threads):
            thread.start()
            until = time.monotonic() + 5
            while not notes[number]:
                assert time.monotonic() < until
                time.sleep(0.01)
        with pytest.raises(EngineError, match="try again"):
            next(here.ask(open_image, "What?", ["direct"]))
        assert [note[0] for note in notes] == ["you are next", "2 before you"]
        list(first)
        for thread in threads:
            thread.join(5)
    assert notes[1][-1] == "" and "you are next" in notes[1]


def test_leaving_takes_the_question_back() -> None:
    queue = VisitorQueue(1, 5)
    first, second = queue.join(), queue.join()
    assert (queue.before(first), queue.before(second)) == (0, 1)
    queue.leave(first)
    assert queue.before(second) == 0
    with backend(Looker(seconds=0.1), places=1) as here:
        asked = here.ask(open_image, "What?", ["cot"])
        next(asked)
        asked.close()  # type: ignore[attr-defined]
        *_, (card,) = here.ask(open_image, "Again?", ["direct"])
        assert card.state == "done"


@pytest.mark.parametrize(
    ("shares", "box"),
    [
        ([0.5, 0.5, 0.25, 0.0], (0.25, 0.25, 0.5, 0.5)),
        ([0.0, 0.0, 1.0, 1.0], (0.0, 0.25, 1.0, 0.75)),
        ([0.5, 0.5, 0.505, 0.9], None),
        ([0.5, 0.5, 1.5, 0.9], None),
        ([0.5, "x", 0.6, 0.9], None),
        ([0.5], None),
    ],
)
def test_a_drawn_box_is_read_or_refused(shares: list[float], box: tuple[float, ...] | None) -> None:
    found = box_of(shares, (400, 200))
    assert (found.coords if found else None) == box


def test_models_answer_one_after_another_and_one_that_cannot_be_loaded_says_so() -> None:
    small, large = Looker(name="small"), Looker(name="large")
    loads: list[str] = []

    def load(engine: Looker) -> Callable[[], Ready]:
        def opens() -> Ready:
            loads.append(engine.name)
            return Ready(Batcher(engine), WORDING)

        return opens

    def fails() -> Ready:
        raise CheckpointError("broken has no weights.")

    def crashes() -> Ready:
        raise ZeroDivisionError("division by zero")

    models = [
        DemoModel("small", load(small), hint="Knows little."),
        DemoModel("broken", fails),
        DemoModel("crashed", crashes),
        DemoModel("large", load(large), weigh=lambda: 2_500_000_000),
    ]
    here = DemoBackend(models)
    asked = ["large", "broken", "crashed", "small"]
    try:
        seen = list(here.ask(open_image, "What?", ["cot", "direct"], models=asked))
        again = list(here.ask(open_image, "What?", ["direct"], models=["large"]))
        alone = list(here.ask(open_image, "What?", ["direct"]))
    finally:
        for model in models:
            model.close()
    notes = [card.note for cards in seen for card in cards if card.model == "large"]
    assert "loads large (2.50 GB of weights)" in notes and loads == ["small", "large"]
    ends = {(card.model, card.way): (card.state, card.text or card.note) for card in seen[-1]}
    assert ends["small", "cot"] == ("done", "seen 224 x 200") == ends["large", "cot"]
    assert ends["small", "direct"] == ("done", "seen 400 x 200") == ends["large", "direct"]
    assert ends["broken", "cot"] == ("failed", "broken has no weights.") == ends["broken", "direct"]
    assert "could not be loaded (ZeroDivisionError" in ends["crashed", "cot"][1]
    for cards in seen:  # a time that holds another model's work would be no time of its own
        working = {card.model for card in cards if card.state in ("looking", "reading")}
        assert len(working) <= 1
    assert [card.model for card in again[-1]] == ["large"] and not any("loads" in c.note for (c,) in again)
    assert [card.model for card in alone[-1]] == ["small"]


def test_a_model_larger_than_the_memory_is_not_loaded() -> None:
    model = DemoModel("huge", lambda: pytest.fail("it was loaded"), weigh=lambda: 10**15, in_ram=True)
    with pytest.raises(EngineError, match=r"huge takes 1,000,000 GB of weights, and .* of memory are free"):
        model.ready()
    model.close()


@pytest.mark.parametrize(
    ("given", "left"), [("*", "*"), ("a.b", "a.b,127.0.0.1,localhost,::1"), ("", "127.0.0.1,localhost,::1")]
)
def test_the_page_is_asked_past_a_proxy(monkeypatch: pytest.MonkeyPatch, given: str, left: str) -> None:
    """A "*" already says so of every host, and only where it stands alone."""
    page = pytest.importorskip("viscot_core.demo.page")
    monkeypatch.setenv("no_proxy", given)
    monkeypatch.setenv("NO_PROXY", given)
    page._no_proxy_for("::1")
    assert os.environ["NO_PROXY"] == left
