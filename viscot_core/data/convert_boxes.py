"""Rewrites the boxes of training rows from another model's format into Visual CoT's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import BoxStatus, format_box
from viscot_core.data.annotations import Conversation, Rows
from viscot_core.data.faults import says_box
from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.images.reading import image_size
from viscot_core.paths import inside


@dataclass(slots=True)
class Rewritten:
    """Rows written, boxes rewritten, and a sentence for each box that the format does not read."""

    rows: int = 0
    boxes: int = 0
    unread: list[str] = field(default_factory=list)


def convert_boxes(
    file: Path, out: Path, codec: Codec, images: Path, *, progress: Callable[[int], None] | None = None
) -> Rewritten:
    """Write the rows of ``file`` to ``out`` (a JSON list, or JSONL by its ending) with boxes in 0..1.

    Boxes that ``codec`` does not read stay as they are and are listed. Raises ImageError for a missing image,
    DataError where no box was read: the format is another one.
    """
    done = Rewritten()
    lines = out.suffix == ".jsonl"
    with atomic_write(out) as target:
        target.write("" if lines else "[")
        for row in Rows(file, Conversation):
            text = json.dumps(_rewritten(row, codec, images, done).to_disk())
            target.write(f"{text}\n" if lines else f"{',' if done.rows else ''}\n{text}")
            done.rows += 1
            if progress:
                progress(1)
        target.write("" if lines else "\n]\n")
        if done.unread and not done.boxes:
            raise DataError(
                f"{done.unread[0]}; none of {len(done.unread)} boxes is of the format {codec.name}."
            )
    return done


def _rewritten(row: Conversation, codec: Codec, images: Path, done: Rewritten) -> Conversation:
    turns, asked = list(row.turns), ""
    for number, turn in enumerate(turns):
        if turn.role == "user":
            asked = turn.text
        elif says_box(turn, asked) and row.image:
            parsed = codec.parse(turn.text, image_size(inside(images, row.views()[0][0])))
            if parsed.status is BoxStatus.UNPARSABLE:
                done.unread.append(f"row {row.id}: the box {turn.text[:60]!r} cannot be read")
                continue
            turns[number] = replace(turn, text=format_box(parsed.box))
            done.boxes += 1
    return row.model_copy(update={"turns": tuple(turns)})
