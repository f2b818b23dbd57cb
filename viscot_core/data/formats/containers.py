"""Files of rows as plain objects, one in memory: JSON, JSONL, parquet, Hugging Face data sets on disk."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from viscot_core.data.rows import raw_rows
from viscot_core.errors import DataError, UsageError
from viscot_core.resources import install_line

if TYPE_CHECKING:
    import pyarrow

DATASET_FILES = ("dataset_info.json", "state.json")
"""What ``Dataset.save_to_disk`` of Hugging Face's ``datasets`` writes beside its ``*.arrow`` files."""
SPLITS_FILE = "dataset_dict.json"
"""What ``DatasetDict.save_to_disk`` writes: its folder has a folder for each split."""
_BATCH = 32
"""Rows of a table in memory: each may hold its images."""


def is_json(path: Path) -> bool:
    """Whether ``path`` is a JSON list or JSONL (as far as its name tells), not a table."""
    return path.is_file() and path.suffix != ".parquet"


def raw_objects(path: Path) -> Iterator[tuple[int, Any]]:
    """``(number from 0, row)`` in order; a row that is not valid JSON comes as a ``DataError``, not raised.

    Raises:
        DataError: the file or folder cannot be read as a whole, or is of no known kind.
        UsageError: a data set with several splits, or pyarrow is missing.
    """
    if is_json(path):
        for row in raw_rows(path):
            try:
                yield row.number, orjson.loads(row.data)
            except orjson.JSONDecodeError as error:
                yield row.number, DataError(_not_json(row.data, error))
        return
    number = 0
    for batch in _batches(path):
        for row in batch.to_pylist():
            yield number, row
            number += 1


def _not_json(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError:
        return "the row is not in UTF-8 (save the file in UTF-8)"
    return f"the row is not valid JSON ({error})"


def has_key(path: Path, *keys: str) -> bool:
    """Whether any object of a JSON file has one of ``keys`` with a value; a second or two per GB."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # A quotation mark inside a text has a backslash before it: such text never looks like a key.
            empty = rb'(?!\s*(?:null|""|\[\s*\]|\{\s*\}))'
            return any(re.search(rb'"%s"\s*:' % key.encode() + empty, data) for key in keys)


def first_objects(path: Path, count: int = 1) -> list[Any]:
    """The first rows, to tell what the file holds."""
    found = []
    for number, row in raw_objects(path):
        found.append(row)
        if number + 1 >= count:
            break
    return found


def _batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    files = table_files(path)
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(
            f"{path} is read with pyarrow, which is not installed: {install_line(['pyarrow'])}."
        ) from error
    for file in files:
        try:
            if file.suffix == ".parquet":
                # Not a whole row group ahead: with images in the rows that is a gigabyte.
                table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
                yield from table.iter_batches(batch_size=_BATCH)
            else:
                with arrow.memory_map(str(file)) as source:
                    yield from arrow.ipc.open_stream(source)
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{file} is damaged ({str(error).splitlines()[0]}); fetch it again.") from error


def table_files(path: Path) -> Sequence[Path]:
    """The parquet or arrow files of a file or a folder, in order.

    Raises:
        DataError: there are none.
        UsageError: the folder holds several splits.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path.")
    if path.is_file():
        return [path]
    if (path / SPLITS_FILE).exists():
        splits = sorted(inner.name for inner in path.iterdir() if inner.is_dir())
        raise UsageError(f"{path} has the splits {', '.join(splits)}; give one of them: {path / splits[0]}.")
    # In the order that state.json gives; the names alone sort the same way.
    for pattern in ("*.arrow", "*.parquet", "data/*.parquet"):
        if found := sorted(path.glob(pattern)):
            return found
    raise DataError(
        f"{path} is no file of rows and no data set on disk; give a JSON, JSONL or parquet file, or a folder "
        "of Dataset.save_to_disk."
    )
