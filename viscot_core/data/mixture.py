"""A training mixture as a memory-mapped index: 2.4 million rows need megabytes of memory, not gigabytes.

A mixture folder contains ``rows.jsonl`` (the rows of all sources, one per line), ``offsets.bin`` (int64: the
start of each row, and the end) and ``mixture.json`` (the sources, written last). Loader workers and ranks
share its memory pages. A single JSON or JSONL file opens as a mixture of one source: it is scanned once and
never copied; the index of a large file is kept in ``.cache`` beside it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from viscot_core.data.annotations import Conversation, describe
from viscot_core.data.rows import raw_rows
from viscot_core.errors import DataError
from viscot_core.files import sha256_of
from viscot_core.processes import worker_pool

FORMAT = 1
_BATCH = 2048
_KEPT = 64 << 20
"""Files of at least this many bytes keep their index: to scan 2.7 GB takes every rank ten seconds."""
_BLOCK = 16 << 20
Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class MixtureSource:
    """One file of a mixture: it has the rows ``first .. first + rows``, seen ``weight`` times per epoch."""

    name: str
    file: str
    weight: float = 1.0
    first: int = 0
    rows: int = 0
    skipped: int = 0


class Mixture:
    """Rows by number: ``mixture[i]`` is a Conversation, ``mixture.raw(i)`` its bytes. Safe to fork."""

    def __init__(
        self,
        path: Path,
        file: Path,
        starts: Sequence[int],
        ends: Sequence[int],
        sources: tuple[MixtureSource, ...],
        sha256: str = "",
    ) -> None:
        self.path, self.sources, self._sha256 = path, sources, sha256
        self._file, self._starts, self._ends = file, starts, ends
        with file.open("rb") as opened:
            self._bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file of rows; for a single file computed on first use."""
        return self._sha256 or sha256_of(self._file)

    @classmethod
    def open(cls, path: Path | str) -> Mixture:
        """Open a mixture folder, or one JSON or JSONL file.

        Takes milliseconds; a file without a kept index is scanned first, about a second per 300k rows.
        """
        path = Path(path)
        if not path.exists():
            raise DataError(f"{path} does not exist; make it with 'viscot data mix FILE... --out {path}'.")
        return cls._open_folder(path) if path.is_dir() else cls._index_file(path)

    @classmethod
    def _open_folder(cls, path: Path) -> Mixture:
        again = f"build it again with 'viscot data mix FILE... --out {path}'"
        try:
            about = json.loads((path / "mixture.json").read_text())
            if about["format"] != FORMAT:
                raise DataError(f"{path} is a mixture of format {about['format']}, not {FORMAT}; {again}.")
            sources = tuple(MixtureSource(**source) for source in about["sources"])
            offsets = _integers(path / "offsets.bin")
            size = (path / "rows.jsonl").stat().st_size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a complete mixture ({error}); {again}.") from error
        if len(offsets) != about["rows"] + 1 or offsets[-1] != size:
            raise DataError(f"{path} is incomplete; {again}.")
        return cls(path, path / "rows.jsonl", offsets[:-1], offsets[1:], sources, about["sha256"])

    @classmethod
    def _index_file(cls, path: Path) -> Mixture:
        starts, ends = _kept_index(path) or _new_index(path)
        if not len(starts):
            raise DataError(f"{path} contains no rows; check that it is the right file.")
        return cls(path, path, starts, ends, (MixtureSource(path.stem, str(path), rows=len(starts)),))

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map does not pickle. A folder is opened again by its path; a single file takes its index
        # along, so that no worker scans it again.
        if self.path.is_dir():
            return Mixture.open, (self.path,)
        starts, ends = array("q", self._starts), array("q", self._ends)
        return Mixture, (self.path, self._file, starts, ends, self.sources, self._sha256)

    def __len__(self) -> int:
        return len(self._starts)

    def raw(self, index: int) -> bytes:
        """The row's JSON text. IndexError outside of ``0 .. len - 1``."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._bytes[self._starts[index] : self._ends[index]]

    def __getitem__(self, index: int) -> Conversation:
        try:
            return Conversation.model_validate_json(self.raw(index))
        except ValidationError as error:
            raise DataError(
                f"{self.path}: row {index}{_named(self.raw(index))}: {describe(error)}; expected "
                '{"id", "image", "conversations": [{"from", "value"}]} or '
                '{"id", "images", "messages": [{"role", "content"}]}.'
            ) from error

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of every row, ``int64[len]``."""
        return np.asarray(self._ends, np.int64) - np.asarray(self._starts, np.int64)

    def count(self, word: bytes) -> NDArray[np.int64]:
        """How often ``word`` occurs in every row, ``int64[len]``: one pass over the file, block by block."""
        data = np.frombuffer(self._bytes, np.uint8)
        starts, rows = np.asarray(self._starts, np.int64), [np.empty(0, np.int64)]
        # Blocks overlap by len(word) - 1 bytes: a word across a border is found, and every start is tried
        # once.
        for at in range(0, len(data) - len(word) + 1, _BLOCK):
            block = data[at : at + _BLOCK + len(word) - 1]
            # Where the first byte stands; each further byte keeps the places that go on like the word.
            found = np.flatnonzero(block[: len(block) - len(word) + 1] == word[0])
            for offset, byte in enumerate(word[1:], 1):
                found = found[block[found + offset] == byte]
            # The row of a place is the last one that starts at or before it.
            rows.append(np.searchsorted(starts, found + at, side="right") - 1)
        return np.bincount(np.concatenate(rows), minlength=len(self))

    def source_of(self, index: int) -> MixtureSource:
        """The source that row ``index`` came from."""
        return next(s for s in self.sources if s.first <= index < s.first + s.rows)

    def epoch(self, number: int = 0, seed: int = 0) -> NDArray[np.int64]:
        """Row numbers of one epoch in file order. A weight of 2.5 gives the source twice and half of it.

        The half is drawn without replacement, differently in every epoch; the same seed gives the same rows.
        """
        parts = []
        for position, source in enumerate(self.sources):
            rows = np.arange(source.first, source.first + source.rows, dtype=np.int64)
            parts += [rows] * int(source.weight)
            if some := round((source.weight - int(source.weight)) * source.rows):
                # Seeded by the epoch and the source's position: no draw depends on how many rows another
                # source has.
                draw = np.random.default_rng([seed, number, position])
                parts.append(np.sort(draw.choice(rows, some, replace=False)))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def lengths(
        self,
        measure: Callable[[Conversation], int],
        key: str,
        *,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> NDArray[np.int32]:
        """``measure`` of every row, int32[len]; computed once in parallel and kept beside the mixture.

        ``key`` contains everything the measure depends on (the tokenizer's hash, the template, tokens per
        image): another key uses another cache file. A single file keeps no cache. ``measure`` must pickle.
        """
        cached = self.path / f"lengths-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        if cached.is_file():
            found: NDArray[np.int32] = np.load(cached)
            if len(found) == len(self):
                return found
        found = _measure_all(self, measure, workers, progress)
        if self.path.is_dir():
            # Named by process: ranks may compute it at the same time, and the last rename wins.
            partial_file = cached.with_suffix(f".{os.getpid()}.tmp")
            with partial_file.open("wb") as file:
                np.save(file, found)
            partial_file.replace(cached)
        return found


def _named(row: bytes) -> str:
    """`` (id ...)`` of a row that is not valid otherwise, if it has one."""
    try:
        name = json.loads(row).get("id")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return "" if name is None else f" (id {str(name)[:60]})"


def _measure_all(
    mixture: Mixture, measure: Callable[[Conversation], int], workers: int, progress: Progress | None
) -> NDArray[np.int32]:
    found = np.empty(len(mixture), np.int32)
    parts = [range(at, min(at + _BATCH, len(mixture))) for at in range(0, len(mixture), _BATCH)]
    task = partial(_measure_part, mixture, measure)

    def keep(results: Iterator[NDArray[np.int32]]) -> None:
        for part, lengths in zip(parts, results, strict=True):
            found[part.start : part.stop] = lengths
            if progress:
                progress(part.stop, len(mixture))

    if workers <= 1 or len(parts) == 1:
        keep(map(task, parts))
    else:
        with worker_pool(workers) as pool:
            keep(pool.map(task, parts))
    return found


def _measure_part(mixture: Mixture, measure: Callable[[Conversation], int], part: range) -> NDArray[np.int32]:
    return np.fromiter((measure(mixture[index]) for index in part), np.int32, len(part))


def _new_index(path: Path) -> tuple[array[int], array[int]]:
    """Starts and ends of a file's rows; saved beside a large file if the folder is writable."""
    # Before the scan: if the file changes meanwhile, its index no longer fits it and is not used again.
    before = path.stat()
    starts, ends = array("q"), array("q")
    for row in raw_rows(path):
        starts.append(row.start)
        ends.append(row.start + len(row.data))
    if before.st_size >= _KEPT:
        place = _index_place(path)
        partial_file = place.with_name(f"{place.name}.{os.getpid()}.tmp")
        with suppress(OSError):  # a read-only data root: index it again next time
            place.parent.mkdir(exist_ok=True)
            with partial_file.open("wb") as file:
                for numbers in (array("q", [before.st_size, before.st_mtime_ns, len(starts)]), starts, ends):
                    numbers.tofile(file)
            partial_file.replace(place)
    return starts, ends


def _kept_index(path: Path) -> tuple[memoryview, memoryview] | None:
    """The kept index of a file; None if there is none, or the file has changed since."""
    place, now = _index_place(path), path.stat()
    # 24 bytes are the header (size, time, number of rows); a size that is no multiple of 8 was cut short and
    # would not cast to int64.
    if now.st_size < _KEPT or not place.is_file() or place.stat().st_size < 24 or place.stat().st_size % 8:
        return None
    kept = _integers(place)
    rows = (len(kept) - 3) // 2
    if list(kept[:3]) != [now.st_size, now.st_mtime_ns, rows]:
        return None
    return kept[3 : 3 + rows], kept[3 + rows :]


def _index_place(path: Path) -> Path:
    return path.parent / ".cache" / f"{path.name}.index"


def _integers(path: Path) -> memoryview:
    """A file of native int64 as a read-only sequence; all processes share its memory pages."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).cast("q")
