"""Asking the items, a batch at a time, and the record of each answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from viscot_core.ask import Strategy, VisualCoT, box_in
from viscot_core.data.traces.trace import Trace, trace_of
from viscot_core.engines.base import draw_of
from viscot_core.errors import ImageError, UsageError
from viscot_core.images.reading import file_of, image_size, open_image
from viscot_core.infer.items import InferItem
from viscot_core.policies.base import Answer
from viscot_core.policies.zoom_settings import ZoomSettings

BATCH = 8
BATCH_PIXELS = 100_000_000
"""Pixels of a batch whose size nobody chose: 8 photos of 12 million, one of 108."""


_OURS = frozenset(
    {"image", "question", "model", "page", "draw", "given_box", "strategy", "status", "error"}
    | {"truncated", "thoughts", "looks", "seen", "box_probability", "answer_probability"}
    | Answer("", (0, 0)).to_dict().keys()
)
"""The keys of a record; a row's own ``answer`` must not look like the model's."""


@dataclass(frozen=True, slots=True)
class InferResult:
    """An item with its answer, or with the reason (one sentence) why there is none."""

    item: InferItem
    strategy: Strategy
    answer: Answer | None
    error: str | None = None
    box: tuple[float, ...] | None = None

    def record(self, model: str) -> dict[str, Any]:
        """One line of ``--json``: the row's own keys, then the answer, as ``Answer.to_dict`` has it. A key of
        the row that the record has itself comes back as ``input_KEY``."""
        about: dict[str, Any] = {**record_key(self.item, self.strategy, model, self.box)}
        if self.answer is None:
            about |= {"status": "failed", "error": self.error}
        else:
            status = "truncated" if self.answer.truncated else "done"
            about |= {"status": status, "error": None, **self.answer.to_dict()}
        ours = _OURS | about.keys()
        own = {key: value for key, value in self.item.row.items() if key not in ours}
        kept = {f"input_{key}": value for key, value in self.item.row.items() if key in ours}
        return {**own, **about, **kept}

    def trace(self, zoom: ZoomSettings) -> Trace:
        """The talk of an answer of the zoom loop."""
        assert self.answer is not None
        item = self.item
        return trace_of(
            self.answer,
            images=(str(item.image),),
            question=item.question,
            dialect=zoom.dialect,
            crop_from=zoom.crop_from,
            id=item.name if item.page is None else f"{item.name}#{item.page}",
        )


def record_key(
    item: InferItem, strategy: Strategy, model: str, box: tuple[float, ...] | None
) -> dict[str, Any]:
    """The first keys of a record: what was asked, and how."""
    key: dict[str, Any] = {"image": str(item.image), "question": item.question, "model": model}
    if item.page is not None:
        key["page"] = item.page
    if item.draw:  # without it the record is of the first draw
        key["draw"] = item.draw
    if box is not None:
        key["given_box"] = list(box)
    return {**key, "strategy": strategy}


def ask_items(
    cot: VisualCoT,
    items: Sequence[InferItem],
    *,
    batch_size: int | None = None,
    strategy: Strategy = "cot",
    max_new_tokens: int = 128,
    box: tuple[float, ...] | None = None,
    logprobs: bool | None = None,
) -> Iterator[InferResult]:
    """Results in the items' order, a batch at a time; a bad image or question fails its own item only.

    Without a ``batch_size`` a batch has at most ``BATCH`` items and ``BATCH_PIXELS`` pixels, or one larger
    image. ``box`` (pixels of each image) is where to look; ``logprobs`` as in ``VisualCoT.ask_many``.
    """
    for batch in _batches(items, batch_size):
        # A function of its own: its images are freed before those of the next batch are opened.
        yield from _ask_batch(cot, batch, strategy, max_new_tokens, box, logprobs)


def _ask_batch(
    cot: VisualCoT,
    batch: Sequence[InferItem],
    strategy: Strategy,
    max_new_tokens: int,
    box: tuple[float, ...] | None,
    logprobs: bool | None,
) -> list[InferResult]:
    results: dict[int, InferResult] = {}
    images: dict[int, Image.Image] = {}
    for number, item in enumerate(batch):
        try:
            images[number] = _opened(item, box)
        except (ImageError, UsageError) as error:
            results[number] = InferResult(item, strategy, None, str(error), box)
    pairs = [(image, batch[number].question) for number, image in images.items()]
    answers = cot.ask_many(
        pairs,
        strategy=strategy,
        max_new_tokens=max_new_tokens,
        box=box,
        logprobs=logprobs,
        draws=[_draw(batch[number]) for number in images],
    )
    for number, answer in zip(images, answers, strict=True):
        results[number] = _result(batch[number], strategy, answer, box)
    return [results[number] for number in range(len(batch))]


def _draw(item: InferItem) -> int:
    """Which numbers an item draws with: its own, whatever is asked beside it or was answered before."""
    return draw_of(str(item.image), item.page or 0, item.question, item.draw or 0)


def _batches(items: Sequence[InferItem], batch_size: int | None) -> Iterator[list[InferItem]]:
    batch: list[InferItem] = []
    pixels = 0
    for item in items:
        more = 0 if batch_size is not None else _pixels(item)
        if batch and (len(batch) == (batch_size or BATCH) or pixels + more > BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(item)
        pixels += more
    if batch:
        yield batch


def _pixels(item: InferItem) -> int:
    """By the header; pages of PDFs are bounded anyway, and what cannot be read takes no memory."""
    try:
        width, height = image_size(*file_of(item.source or item.image))
    except ImageError:
        return 0
    return width * height


def _opened(item: InferItem, box: tuple[float, ...] | None) -> Image.Image:
    if item.error is not None:
        raise UsageError(item.error)
    image = open_item(item)
    if box is not None:
        box_in(box, image.size)
    return image


def open_item(item: InferItem) -> Image.Image:
    """The image of an item as the model sees it. Raises ImageError."""
    return open_image(item.source or item.image, as_seen=True, page=item.page)


def _result(
    item: InferItem, strategy: Strategy, answer: Answer, box: tuple[float, ...] | None
) -> InferResult:
    if answer.error is None:
        # A path, not the pixels: results may be many.
        kept = replace(answer, source=item.source or item.image, page=item.page)
        return InferResult(item, strategy, kept, box=box)
    reason = f"{item.name}: the model could not answer ({answer.error})."
    return InferResult(item, strategy, None, reason, box)
