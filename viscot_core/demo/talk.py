"""What the page shows while a question is answered: cards that change as the model looks and speaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue
from typing import Any, Literal

from PIL import Image

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.chain import Look, Prepared, Question, VisualCoT
from viscot_core.demo.line import Line
from viscot_core.errors import ViscotError
from viscot_core.serve.batching import Batcher, Session

Way = Literal["cot", "direct", "box"]
State = Literal["waiting", "looking", "reading", "done", "failed"]
TITLES: dict[Way, str] = {"cot": "Looks closer", "direct": "Answers at once", "box": "Your box"}


@dataclass(frozen=True, slots=True)
class Region:
    """Where the model looks: box and crop window in the image's pixels, and how the box was read."""

    box: tuple[float, float, float, float]
    crop: tuple[int, int, int, int]
    size: tuple[int, int]
    status: str
    text: str


@dataclass(frozen=True, slots=True)
class Card:
    """One way of answering, as far as it has come."""

    way: Way
    title: str
    state: State = "waiting"
    text: str = ""
    note: str = ""
    region: Region | None = None
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON for the page."""
        return asdict(self)


class Talk:
    """Answers the questions of all visitors over one batcher, a few at a time."""

    def __init__(self, batcher: Batcher, *, places: int = 8, length: int = 56) -> None:
        self._batcher = batcher
        self._line = Line(places, length)

    def ask(
        self, image: Image.Image, question: str, ways: Sequence[Way], box: Box | None = None
    ) -> Iterator[tuple[Card, ...]]:
        """The cards, again and again until all are done; ``box`` (SQUARE) belongs to the way ``box``.

        Closing the iterator takes the question back.

        Raises:
            UsageError: an empty question.
            EngineError: too many people are waiting.
        """
        (prepared,) = VisualCoT(Session(self._batcher)).prepare([Question(image, question)])
        ticket = self._line.join()
        try:
            cards = {way: Card(way, TITLES[way]) for way in ways}
            while before := self._line.before(ticket):
                note = f"{before} before you" if before > 1 else "you are next"
                yield tuple(replace(card, note=note) for card in cards.values())
                self._line.wait(1.0)
            yield from self._work(prepared, cards, box)
        finally:
            self._line.leave(ticket)

    def _work(
        self, prepared: Prepared, cards: dict[Way, Card], box: Box | None
    ) -> Iterator[tuple[Card, ...]]:
        news: SimpleQueue[Card] = SimpleQueue()
        sessions = {way: Session(self._batcher) for way in cards}
        for way, session in sessions.items():
            job = (prepared, cards[way], box, session, news)
            threading.Thread(target=_answer, args=job, name=f"viscot-{way}", daemon=True).start()
        try:
            while any(card.state not in ("done", "failed") for card in cards.values()):
                card = news.get()
                cards[card.way] = card
                yield tuple(cards.values())
        finally:
            for session in sessions.values():
                session.stop()


def _answer(
    prepared: Prepared, card: Card, box: Box | None, session: Session, news: SimpleQueue[Card]
) -> None:
    """One way's thread: puts the card into ``news`` whenever it changes; the last one is done or failed."""
    chain = VisualCoT(session)

    def hear(_: int, text: str) -> None:
        news.put(replace(card, text=text))

    try:
        with session:
            if card.way == "direct":
                news.put(card := replace(card, state="reading", note="answers from the whole image"))
                (answer,) = chain.direct([prepared], on_text=hear)
            else:
                news.put(card := replace(card, state="looking", note="looks for the region"))
                look = (
                    chain.look_at(prepared, box) if box and card.way == "box" else chain.look([prepared])[0]
                )
                if look.error is None:
                    card = replace(card, state="reading", note="reads the crop", region=_region(look))
                    news.put(card)
                (answer,) = chain.answer([look], on_text=hear)
        if answer.error is not None:
            news.put(replace(card, state="failed", note=answer.error))
            return
        news.put(replace(card, state="done", text=answer.text, note="", seconds=round(answer.seconds, 2)))
    except ViscotError as error:
        news.put(replace(card, state="failed", note=str(error)))
    except Exception as error:  # the thread's edge: the page must not wait for ever
        news.put(
            replace(card, state="failed", note=f"Something unexpected happened ({type(error).__name__}).")
        )
        raise


def _region(look: Look) -> Region:
    size = look.question.view.image.size
    x0, y0, x1, y1 = look.parsed.box.to_original(size).clip(size).coords
    return Region((x0, y0, x1, y1), look.window, size, look.parsed.status.value, look.parsed.text)


def box_of(shares: Sequence[float], size: tuple[int, int]) -> Box | None:
    """A box drawn on the page (shares of the image's width and height) in the padded square.

    None where it is too small to be meant, or no box at all.
    """
    if len(shares) != 4 or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares):
        return None
    (x0, x1), (y0, y1) = sorted((shares[0], shares[2])), sorted((shares[1], shares[3]))
    if x1 - x0 < 0.01 or y1 - y0 < 0.01:
        return None
    width, height = size
    return Box(x0 * width, y0 * height, x1 * width, y1 * height, Frame.ORIGINAL).to_square(size)
