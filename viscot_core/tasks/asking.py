"""What the two benchmarks share: an image opened for an item, a job to do, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from viscot_core.boxes.geometry import Box, BoxStatus, ParsedBox, iou
from viscot_core.conversation import Message
from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.errors import ImageError
from viscot_core.families.llava.template import render
from viscot_core.images.reading import open_image
from viscot_core.images.view import View
from viscot_core.policies.wording import Wording
from viscot_core.runs.records import Coords, Key, Prediction
from viscot_core.tasks.items import Item

SAME_SHAPE = 0.02
"""How far the shape of a stored image may be from the row's; beyond it, boxes mean another image."""


@dataclass(frozen=True)
class Look:
    """An item with its image, or with the reason why it has none."""

    item: Item
    view: View | None
    error: str | None = None


def image(look: Look) -> View:
    """The image of a look that has one."""
    assert look.view is not None, look.error
    return look.view


@dataclass(frozen=True)
class Job:
    """One line of the journal to be: an item under one strategy."""

    look: Look
    strategy: str

    @property
    def key(self) -> Key:
        return (self.strategy, self.look.item.dataset, str(self.look.item.question_id))


@dataclass(frozen=True)
class Open:
    """A job that could not be finished now and is left for the next run."""

    key: Key
    reason: str


Outcome = Prediction | Open


class Asker(Protocol):
    """One benchmark's way from jobs to outcomes; one outcome per job, in order."""

    def ask(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Raises EngineError when the engine is gone; a single job's failure is an outcome."""
        ...


def open_looks(items: Sequence[Item]) -> list[Look]:
    """Open the items' images, each file once; an unreadable one fails its items alone."""
    opened: dict[Path, View | str] = {}
    for item in items:
        if item.path not in opened:
            try:
                opened[item.path] = View(open_image(item.path), str(item.path))
            except ImageError as error:
                opened[item.path] = str(error)
    return [_look(item, opened[item.path]) for item in items]


def _look(item: Item, found: View | str) -> Look:
    if isinstance(found, str):
        return Look(item, None, found)
    width, height = found.image.size
    if abs(width / height / (item.size[0] / item.size[1]) - 1) > SAME_SHAPE:
        row = f"{item.size[0]} x {item.size[1]}"
        return Look(item, None, f"the image is {width} x {height}, its row says {row}: another image")
    return Look(item, found)


@dataclass(frozen=True)
class Speaker:
    """An engine with the wording it is spoken to in."""

    engine: Engine
    wording: Wording
    max_new_tokens: int = 128

    def say(self, prompts: Sequence[tuple[Sequence[Message], tuple[View, ...]]]) -> list[Generation]:
        """One generation per prompt, in order."""
        template = self.engine.template
        return self.engine.generate(
            [
                Request(render(turns, template, generate=True), views, self.max_new_tokens)
                for turns, views in prompts
            ]
        )


def overlap(
    parsed: ParsedBox | None,
    box: Box | None,
    item: Item,
    points: bool,
) -> float | None:
    """IoU with the annotated box in the padded square; 0 for an unparsable box, None where there is none.

    A family that names ``points`` has none, whether or not its words can be read.
    """
    if points:
        return None
    if parsed is not None and parsed.status is BoxStatus.UNPARSABLE:
        return 0.0
    if box is None:
        return None
    return iou(box, item.box.to_square(item.size))


def done(job: Job, seconds: float, facts: Mapping[str, Any]) -> Prediction:
    """The journal's line of a finished job."""
    return _line(job, status="done", seconds=seconds, **facts)


def failed(job: Job, error: str) -> Prediction:
    """The journal's line of a job that cannot be done, with the reason."""
    return _line(job, status="failed", error=error)


def _line(job: Job, **facts: Any) -> Prediction:
    item = job.look.item
    gt: Coords = item.box.to_square(item.size).coords
    return Prediction(
        strategy=job.strategy,
        dataset=item.dataset,
        question_id=item.question_id,
        image=item.image,
        width=item.size[0],
        height=item.size[1],
        question=item.question,
        reference=item.reference,
        box_gt=gt,
        **facts,
    )


def unsaid(job: Job, generation: Generation) -> Outcome:
    """A prompt the engine could not continue: left open where trying again may help, else failed."""
    reason = generation.error or "no answer"
    return Open(job.key, reason) if generation.transient else failed(job, reason)
