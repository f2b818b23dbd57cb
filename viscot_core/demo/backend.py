"""What the page shows while a question is answered: cards that change as the region and the answer come.

Models that are asked together answer one after another, so that the time of one is not that of all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue
from typing import Any, Literal

from PIL import Image

from viscot_core.ask import check_question, policy_for, prepare_question
from viscot_core.boxes.geometry import Box, BoxStatus, Frame
from viscot_core.demo.models import DemoModel, Ready
from viscot_core.demo.queue import VisitorQueue
from viscot_core.errors import ViscotError
from viscot_core.policies.base import Look, Policy, Question
from viscot_core.policies.given_box import GivenBox
from viscot_core.rollout import run
from viscot_core.serve.batching import Session

Way = Literal["cot", "direct", "box"]
"""A strategy's name, or ``box``: cot with the region that the visitor drew."""
State = Literal["waiting", "looking", "reading", "done", "failed"]
TITLES: dict[Way, str] = {"cot": "Looks closer", "direct": "Answers at once", "box": "Your box"}


@dataclass(frozen=True, slots=True)
class Region:
    """Where the model looks: box and crop window in pixels of the image, and how the box was read."""

    box: tuple[float, float, float, float]
    crop: tuple[int, int, int, int]
    size: tuple[int, int]
    status: str
    text: str


@dataclass(frozen=True, slots=True)
class Card:
    """One way of answering, and how far it is."""

    way: Way
    title: str
    model: str = ""
    """Its label, where the page offers several."""
    state: State = "waiting"
    text: str = ""
    note: str = ""
    region: Region | None = None
    looks: tuple[Region, ...] = ()
    """All regions in their order; ``region`` is the last."""
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON for the page."""
        return asdict(self)


class DemoBackend:
    """Answers the questions of all visitors with the models of the page, ``places`` of them at a time."""

    def __init__(self, models: Sequence[DemoModel], *, places: int = 8, length: int = 56) -> None:
        self.models = {model.label: model for model in models}
        self._queue = VisitorQueue(places, length)

    def ask(
        self,
        open_image: Callable[[], Image.Image],
        text: str,
        ways: Sequence[Way],
        box: Box | None = None,
        models: Sequence[str] = (),
    ) -> Iterator[tuple[Card, ...]]:
        """All cards, again after every change, until all are done; ``box`` (SQUARE) is for the way ``box``.

        ``models`` are the labels of those to ask (the first one). The image is opened when the question's
        turn comes: those who wait hold no pixels. Closing the iterator stops the question.

        Raises:
            UsageError: an empty question.
            EngineError: too many people are waiting.
        """
        check_question(text)
        ticket = self._queue.join()
        try:
            asked = [model for label, model in self.models.items() if label in models]
            asked = asked or [next(iter(self.models.values()))]
            name = len(self.models) > 1
            cards = {
                (model.label, way): Card(way, TITLES[way], model.label if name else "")
                for model in asked
                for way in ways
            }
            while before := self._queue.before(ticket):
                note = f"{before} before you" if before > 1 else "you are next"
                yield tuple(replace(card, note=note) for card in cards.values())
                self._queue.wait(1.0)
            question = prepare_question(open_image(), text, box=box)
            for model in asked:
                own = {way: cards[model.label, way] for way in ways}
                for changed in self._answer(question, model, own):
                    cards |= {(model.label, way): card for way, card in changed.items()}
                    yield tuple(cards.values())
        finally:
            self._queue.leave(ticket)

    def _answer(
        self, question: Question, model: DemoModel, cards: dict[Way, Card]
    ) -> Iterator[dict[Way, Card]]:
        """The cards of one model, which is loaded where this is its first question."""
        if not model.is_ready:
            note = f"loads {model.label}" + (f" ({model.memory})" if model.memory else "")
            yield {way: replace(card, note=note) for way, card in cards.items()}
        try:
            ready = model.ready()
        except ViscotError as error:
            yield {way: replace(card, state="failed", note=str(error)) for way, card in cards.items()}
            return
        changes: SimpleQueue[Card] = SimpleQueue()
        sessions = {way: Session(ready.batcher) for way in cards}
        for way, session in sessions.items():
            job = (question, _policy(ready, way), cards[way], session, changes)
            threading.Thread(target=_answer, args=job, name=f"viscot-{way}", daemon=True).start()
        try:
            while any(card.state not in ("done", "failed") for card in cards.values()):
                card = changes.get()
                cards[card.way] = card
                yield cards
        finally:
            for session in sessions.values():
                session.stop()


def _policy(ready: Ready, way: Way) -> Policy:
    if way == "box":
        return GivenBox(ready.wording)
    if way == "cot" and ready.zoom is not None:
        return ready.zoom.policy()
    return policy_for(way, ready.wording)


def _answer(
    question: Question, policy: Policy, card: Card, session: Session, changes: SimpleQueue[Card]
) -> None:
    """The thread of one way: puts the card into ``changes`` whenever it changes, at last done or failed."""

    def on_look(_: int, look: Look) -> None:
        nonlocal card
        region = _region(look)
        note = "reads the crop" if not card.looks else f"reads crop {len(card.looks) + 1}"
        card = replace(card, state="reading", note=note, region=region, looks=(*card.looks, region))
        changes.put(card)

    def on_text(_: int, text: str) -> None:
        changes.put(replace(card, text=text))

    if card.way == "direct":
        card = replace(card, state="reading", note="answers from the whole image")
    else:
        card = replace(card, state="looking", note="looks for the region")
    changes.put(card)
    try:
        with session:
            (answer,) = run(
                policy, session, [question], on_text=on_text, on_look=on_look, cancelled=session.is_stopped
            )
        if answer.error is not None:
            changes.put(replace(card, state="failed", note=answer.error))
            return
        seconds = round(answer.seconds, 2)
        note = "The token limit cut what the model said." if answer.truncated else ""
        changes.put(replace(card, state="done", text=answer.text, note=note, seconds=seconds))
    except ViscotError as error:
        changes.put(replace(card, state="failed", note=str(error)))
    except Exception as error:  # the thread's edge: without a last card the page would wait for ever
        note = f"Something unexpected happened ({type(error).__name__})."
        changes.put(replace(card, state="failed", note=note))
        raise


def _region(look: Look) -> Region:
    crop = look.crop or (0, 0, *look.size)
    status = look.status or BoxStatus.OK  # a box that the visitor drew had no words to read
    return Region(look.box_pixels.coords, crop, look.size, status.value, look.text)


def box_of(shares: Sequence[float], size: tuple[int, int]) -> Box | None:
    """A box drawn on the page (0..1 of the image's width and height) in the padded square.

    None for a box that is too small to be meant, or not a box.
    """
    if len(shares) != 4 or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares):
        return None
    (x0, x1), (y0, y1) = sorted((shares[0], shares[2])), sorted((shares[1], shares[3]))
    if x1 - x0 < 0.01 or y1 - y0 < 0.01:
        return None
    width, height = size
    return Box(x0 * width, y0 * height, x1 * width, y1 * height, Frame.ORIGINAL).to_square(size)
