"""Rows of any format made ready for training: read once, kept beside the run, the same when it is resumed.

Training reads JSON in LLaVA's or the messages layout, boxes in viscot's convention, as it is. Everything else
(parquet, data sets on disk, ms-swift's objects, trl's parts, traces, boxes of another convention) is written
as such a file first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from viscot_core.boxes.formats import Codec
from viscot_core.data.formats.containers import is_json, table_files
from viscot_core.data.formats.layouts import RowLayout
from viscot_core.data.formats.read import Reader, is_plain
from viscot_core.data.formats.write import convert_rows
from viscot_core.errors import DataError
from viscot_core.files import atomic_folder, atomic_write

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
    source = _source(file, images, boxes)
    about = place / ABOUT
    if not about.exists() or (known := json.loads(about.read_text(encoding="utf-8")))["source"] != source:
        if started:
            raise DataError(
                f"the rows of {file} are not those that {place} was made from; put them back to continue "
                "this run, or start another one with --out."
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(place, replace=True) as folder:
            reader = Reader(file, images, boxes, folder, prefix=f"{place.name}/")
            done = convert_rows(reader, folder / ROWS_FILE, RowLayout.MESSAGES)
            known = {"source": source, "rows": done.rows, "stored_images": len(reader.stored)}
            with atomic_write(folder / ABOUT) as out:
                json.dump(known, out, indent=1)
    stored = bool(known["stored_images"])
    note = f"{known['rows']} rows of {file} are read from {place / ROWS_FILE}"
    return Prepared(place / ROWS_FILE, place.parent if stored else images, note)


def _source(file: Path, images: Path, boxes: Codec | None) -> dict[str, object]:
    files = [file] if is_json(file) else table_files(file)
    stamps = [[str(each.absolute()), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    return {"files": stamps, "images": str(images.absolute()), "boxes": boxes.name if boxes else None}
