"""Converts metadata rows to training conversations of four turns: question + box request, box, crop, answer.

Reproduces the reference's converter: several regions become one box around all of them; the box is written
in coordinates of the padded square, from the unrounded pixels; the crop's suffix has pixels truncated to
integers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viscot_core.boxes.geometry import format_box
from viscot_core.conversation import cot_turns
from viscot_core.data.annotations import Conversation, MetadataRow, Rows
from viscot_core.errors import DataError
from viscot_core.files import atomic_write

FOLDERS = {"textcap": "cot/textvqa"}
"""Image folders under the data root that are not ``cot/DATASET``, by data set."""


@dataclass(slots=True)
class Converted:
    """The result of a conversion: rows per data set, a sentence per bad row, rows without reasoning steps."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    without_reasoning: int = 0


def image_path(row: MetadataRow) -> str:
    """The path of the row's image under the data root."""
    return f"{FOLDERS.get(row.dataset, 'cot/' + row.dataset)}/{row.image}"


def to_conversation(row: MetadataRow, number: int, *, with_reasoning: bool = False) -> Conversation:
    """The training sample of one metadata row; ``with_reasoning`` puts its steps before the answer."""
    path = image_path(row)
    pixels = ", ".join(str(int(corner)) for corner in row.box.coords)
    answer = " ".join([*row.reasoning, row.answer]) if with_reasoning else row.answer
    return Conversation(
        id=number,
        image=(path, f"{path}###[{pixels}]"),
        turns=cot_turns(row.question, format_box(row.box.to_square(row.size)), answer),
        dataset=row.dataset,
        split=row.split,
    )


def convert(
    files: Sequence[Path],
    out: Path,
    *,
    with_reasoning: bool = False,
    skip_bad: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Converted:
    """Write the conversations of all ``files`` to ``out`` (a JSON list, or JSONL by its ending), streamed.

    Rows are numbered across all files. ``out`` appears only when complete; ``skip_bad`` bad rows are
    skipped and listed. Raises DataError for one more, or if reasoning is requested and no row has any.
    """
    done = Converted()
    lines = out.suffix == ".jsonl"
    with atomic_write(out) as file:
        file.write("" if lines else "[")
        for number, row in enumerate(_all_rows(files, skip_bad, done)):
            done.counts[row.dataset] += 1
            done.without_reasoning += with_reasoning and not row.reasoning
            text = json.dumps(to_conversation(row, number, with_reasoning=with_reasoning).to_disk())
            file.write(f"{text}\n" if lines else f"{',' if number else ''}\n{text}")
            if progress:
                progress(1)
        file.write("" if lines else "\n]\n")
        # Raised inside the block, so that atomic_write deletes the file.
        if with_reasoning and 0 < done.without_reasoning == done.counts.total():
            raise DataError(
                "no row has reasoning steps; give the files of cot_with_detailed_reasoning_steps, or remove "
                "--with-reasoning."
            )
    return done


def _all_rows(files: Sequence[Path], skip_bad: int, done: Converted) -> Iterator[MetadataRow]:
    for path in files:
        # What is left of the allowance: it counts over all files.
        rows = Rows(path, MetadataRow, skip_bad - len(done.bad))
        yield from rows
        done.bad += rows.bad
