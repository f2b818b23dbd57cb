"""Metadata rows become four-turn training conversations: question + box request, box, ``<image>``, answer.

Reproduces the reference's converter: several regions become their hull, the box is written in the padded
square from the unrounded pixels, the crop's suffix holds the pixels cut to whole numbers.
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
"""Where a data set's images lie under the data root, where that is not ``cot/DATASET``."""


@dataclass(slots=True)
class Converted:
    """What a conversion wrote: rows per data set, bad rows in words, rows without the reasoning asked for."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    without_reasoning: int = 0


def image_path(row: MetadataRow) -> str:
    """Where the row's image lies under the data root."""
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

    Rows are numbered through all files. ``out`` appears whole or not at all; ``skip_bad`` bad rows are left
    out and told. Raises DataError for one more, or where reasoning is asked for and no row has any.
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
        if with_reasoning and 0 < done.without_reasoning == done.counts.total():
            raise DataError(
                "none of the rows has reasoning steps; give the files of cot_with_detailed_reasoning_steps, "
                "or leave --with-reasoning out."
            )
    return done


def _all_rows(files: Sequence[Path], skip_bad: int, done: Converted) -> Iterator[MetadataRow]:
    for path in files:
        rows = Rows(path, MetadataRow, skip_bad - len(done.bad))
        yield from rows
        done.bad += rows.bad
