"""Rows of any format made ready for training: read once, kept beside the run, the same when it is resumed.

Training reads JSON in LLaVA's or the messages layout, boxes in viscot's convention, as it is. Everything else
(parquet, data sets on disk, ms-swift's objects, trl's parts, traces, boxes of another convention) is written
as such a file first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscot_core.boxes.formats import Codec
from viscot_core.data.formats.containers import is_json, table_files
from viscot_core.data.formats.layouts import RowLayout
from viscot_core.data.formats.made_once import made_once
from viscot_core.data.formats.read import Reader, is_plain
from viscot_core.data.formats.write import convert_rows

ROWS_FILE, ABOUT = "rows.jsonl", "made_from.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that training reads, the folder of its images, a line about what was done (empty: nothing)."""

    file: Path
    images: Path
    note: str = ""


def prepare(
    file: Path, images: Path, place: Path, boxes: Codec | None = None, *, started: bool = False
) -> Prepared:
    """``file`` as it is, or what ``place`` holds of it.

    ``started``: a run already reads from ``place``, which then must have been made from the same rows.

    Raises:
        DataError: a row that cannot be read, or rows that are others than those the run began with.
    """
    if is_plain(file) and (boxes is None or boxes.name == "viscot"):
        return Prepared(file, images)

    def make(folder: Path) -> dict[str, Any]:
        reader = Reader(file, images, boxes, folder, prefix=f"{place.name}/")
        done = convert_rows(reader, folder / ROWS_FILE, RowLayout.MESSAGES)
        return {"rows": done.rows, "stored_images": len(reader.stored)}

    source = _source(file, images, boxes)
    known = made_once(place, ABOUT, source, make, started=started, what=f"the rows of {file}")
    stored = bool(known["stored_images"])
    note = f"{known['rows']} rows of {file} are read from {place / ROWS_FILE}"
    return Prepared(place / ROWS_FILE, place.parent if stored else images, note)


def _source(file: Path, images: Path, boxes: Codec | None) -> dict[str, object]:
    files = [file] if is_json(file) else table_files(file)
    stamps = [[str(each.absolute()), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    return {"files": stamps, "images": str(images.absolute()), "boxes": boxes.name if boxes else None}
