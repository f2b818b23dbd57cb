"""A run's boxes as COCO files (``bench export --to coco``), for viewers and for pycocotools.

``annotated.json`` has the annotated boxes, ``STRATEGY.json`` those of a strategy. Each is a whole file of
COCO's object detection format (cocodataset.org/#format-data); images and categories (the data sets) have the
same numbers in all of them. ``bbox`` is ``[left, top, width, height]`` in pixels of the stored image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from viscot_core.boxes.geometry import Box
from viscot_core.data.traces.trace import box_of, trace_in
from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.paths import inside
from viscot_core.runs.records import Prediction, read_predictions, read_run

ANNOTATED = "annotated"


@dataclass(frozen=True)
class CocoFile:
    """A file that was written, its boxes, and the finished items that have none (no box, or unparsable)."""

    path: Path
    boxes: int
    without: int


def export_coco(run: Path, out: Path) -> list[CocoFile]:
    """Write the finished items of a run as COCO files under ``out``.

    Raises:
        DataError: the run has no box.
    """
    info = read_run(run)
    done = [p for p in read_predictions(run) if p.done]
    images = {name: number for number, name in enumerate(dict.fromkeys(p.image for p in done), 1)}
    sets = {name: number for number, name in enumerate(dict.fromkeys(p.dataset for p in done), 1)}
    sizes = {p.image: (p.width, p.height) for p in done}
    head = {
        "info": {"description": f"boxes of {info.model}, a run of viscot", "date_created": info.created},
        "images": [
            {"id": number, "file_name": name, "width": sizes[name][0], "height": sizes[name][1]}
            for name, number in images.items()
        ],
        "categories": [{"id": number, "name": name} for name, number in sets.items()],
    }
    # Several strategies answer one question, which has one annotated box.
    asked = {(p.dataset, str(p.question_id)): p for p in done}
    groups = {ANNOTATED: list(asked.values())}
    for p in done:
        groups.setdefault(p.strategy, []).append(p)
    written = []
    for name, items in groups.items():
        boxes = [
            {
                "id": number,
                "image_id": images[p.image],
                "category_id": sets[p.dataset],
                **_shape(box),
                **facts,
            }
            for number, (p, box, facts) in enumerate(_boxes(name, items), 1)
        ]
        if boxes:
            target = inside(out, f"{name}.json")
            with atomic_write(target) as file:
                file.write(orjson.dumps({**head, "annotations": boxes}).decode())
            boxed = {(each["category_id"], str(each["question_id"])) for each in boxes}
            written.append(CocoFile(target, len(boxes), len(items) - len(boxed)))
    if not written:
        raise DataError(f"{run} has no box; nothing is written.")
    return written


def _boxes(name: str, items: Iterable[Prediction]) -> Iterator[tuple[Prediction, Box, dict[str, Any]]]:
    for p in items:
        facts: dict[str, Any] = {"question_id": p.question_id, "question": p.question}
        size = (p.width, p.height)
        if name == ANNOTATED:
            if p.box_gt is not None:
                reference = {} if p.reference is None else {"reference": p.reference}
                yield p, Box(*p.box_gt).to_original(size).clip(size), {**facts, **reference}
            continue
        if p.answer is not None:
            facts["answer"] = p.answer
        looked = _looked_at(p)
        for number, (box, status) in enumerate(looked, 1):
            if status == "unparsable" or not box.clip(size).area:
                continue
            # The probability is that of the words of the last turn; only a talk has several.
            sure = p.trace is None or number == len(looked)
            score = {"score": p.box_probability} if sure and p.box_probability is not None else {}
            yield p, box.clip(size), {**facts, **score, "look": number, "box_status": status}


def _looked_at(p: Prediction) -> list[tuple[Box, str | None]]:
    """The boxes of all looks at the item's image, in pixels, and how each was read (None: given)."""
    if p.trace is not None:
        trace = trace_in(p.trace)
        ours = [look for look in trace.looks if trace.images[look.image :][:1] == (p.image,)]
        return [(box_of(look), look.status) for look in ours]
    size = (p.width, p.height)
    coords = [look["box"] for look in p.looks] if p.looks else [p.box] if p.box is not None else []
    return [(Box(*each).to_original(size), p.box_status) for each in coords]


def _shape(box: Box) -> dict[str, Any]:
    """A box as an annotation has it."""
    left, top, width, height = (round(c, 2) for c in (box.x0, box.y0, box.width, box.height))
    return {"bbox": [left, top, width, height], "area": round(width * height, 2), "iscrowd": 0}
