"""Builds a mixture: streams several JSON or JSONL files of conversations into one memory-mapped folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from viscot_core.conversation import ROLES
from viscot_core.data.annotations import Conversation, Rows, describe
from viscot_core.data.mixture import FORMAT, Mixture, MixtureSource, Progress
from viscot_core.data.rows import proven_rows
from viscot_core.errors import DataError, UsageError, nearest
from viscot_core.files import atomic_folder
from viscot_core.yaml_text import load_yaml

_BATCH = 256
"""Rows written at once; so few that the allocator reuses their memory."""


class _Listed(BaseModel):
    """One file of a mixture list."""

    model_config = ConfigDict(extra="forbid")

    file: str
    name: str | None = None
    weight: float = 1.0


class _List(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sources: list[_Listed]


def sources_of(paths: Sequence[Path], weights: Mapping[str, float]) -> tuple[MixtureSource, ...]:
    """The sources that ``paths`` name: JSON, JSONL, or YAML lists ``sources: [{file, name, weight}]``.

    Files in a list are relative to it; a source is named after its file. ``weights`` (by name) override the
    lists. Raises UsageError for an invalid list or a weight without a source.
    """
    found: list[MixtureSource] = []
    for path in paths:
        if path.suffix in (".yaml", ".yml"):
            found += [
                MixtureSource(item.name or Path(item.file).stem, str(path.parent / item.file), item.weight)
                for item in _read_list(path).sources
            ]
        else:
            found.append(MixtureSource(path.stem, str(path)))
    names = [source.name for source in found]
    for name in weights:
        if name not in names:
            raise UsageError(
                f"no source is called '{name}'; the sources are {', '.join(names)}.{nearest(name, names)}"
            )
    weighted = tuple(replace(source, weight=weights.get(source.name, source.weight)) for source in found)
    for source in weighted:
        if not source.weight > 0:
            raise UsageError(f"the weight of '{source.name}' is {source.weight:g}; give a number above 0.")
    return weighted


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """``NAME=0.5`` texts as numbers by name. Raises UsageError for any other text."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise UsageError(f"'{text}' is not a weight; write NAME=NUMBER, such as cot=0.5.") from error
    return found


def _read_list(path: Path) -> _List:
    try:
        return _List.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML ({error}); correct it.") from error
    except ValidationError as error:
        raise UsageError(
            f"{path}: {describe(error)}; a list is 'sources: [{{file, name, weight}}]'."
        ) from error


def build(
    out: Path,
    sources: Sequence[MixtureSource],
    *,
    skip_bad: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Mixture:
    """Stream the files of ``sources`` into one mixture folder; memory does not grow with the rows.

    ``skip_bad`` bad rows are allowed over all files and counted in their source's ``skipped``. A kill never
    leaves an incomplete ``out``; a replaced mixture is deleted last. Raises DataError for a bad row,
    UsageError if ``out`` exists and ``overwrite`` is not set, or if ``out`` is not a mixture.
    """
    names = [source.name for source in sources]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two sources are called '{double}'; give one of them another name.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out, or pass --overwrite to build it again.")
    if out.exists() and not _replaceable(out):
        raise UsageError(
            f"{out} is not a mixture, and --overwrite replaces nothing else; choose another --out."
        )
    with atomic_folder(out, replace=overwrite) as building:
        _write(building, sources, skip_bad, progress)
    return Mixture.open(out)


def _replaceable(out: Path) -> bool:
    """Whether ``out`` is a mixture (even damaged) or an empty folder: nothing else is ever deleted."""
    return out.is_dir() and ((out / "mixture.json").exists() or not any(out.iterdir()))


def _write(folder: Path, sources: Sequence[MixtureSource], skip_bad: int, progress: Progress | None) -> None:
    total = sum(_size(Path(source.file)) for source in sources)
    writer = _MixtureWriter(folder, progress, total, skip_bad)
    with writer.rows, writer.offsets:
        done = tuple(writer.add(source) for source in sources)
    if not writer.count:
        files = ", ".join(source.file for source in sources)
        raise DataError(f"{files}: no rows; check that these are the right files.")
    about = {
        "format": FORMAT,
        "rows": writer.count,
        "sha256": writer.sha.hexdigest(),
        "sources": [asdict(s) for s in done],
    }
    # Last: a folder without this file is not taken for a mixture.
    (folder / "mixture.json").write_text(json.dumps(about, indent=1) + "\n")


class _MixtureWriter:
    """Appends rows to the open files of a mixture being built, a few thousand at a time."""

    def __init__(self, folder: Path, progress: Progress | None, total: int, skip_bad: int) -> None:
        self.rows: BinaryIO = (folder / "rows.jsonl").open("wb")
        self.offsets: BinaryIO = (folder / "offsets.bin").open("wb")
        # Row i is bytes offsets[i] to offsets[i + 1]: one offset more than rows.
        self.offsets.write(np.zeros(1, np.int64).tobytes())
        self.sha = hashlib.sha256()
        self.count = self.end = self.began = self.read = self.skipped = 0
        self.progress, self.total, self.skip_bad = progress, total, skip_bad

    def add(self, source: MixtureSource) -> MixtureSource:
        first, skipped, path = self.count, self.skipped, Path(source.file)
        checked = Rows(path, Conversation, self.skip_bad - self.skipped)
        self.began = self.end
        batch: list[bytes] = []
        for found in proven_rows(path, plainly_right):
            # A list holds rows that ``plainly_right`` has accepted; a single row was cut by its brackets,
            # unchecked.
            if isinstance(found, list):
                batch += found
            elif plainly_right(found.data) or checked.parse(found) is not None:
                batch.append(found.data)
            if len(batch) >= _BATCH:
                self.flush(batch)
                batch = []
        self.flush(batch)
        self.read += _size(path)
        self.skipped += len(checked.bad)
        if self.progress:
            self.progress(self.read, self.total)
        return MixtureSource(
            source.name, source.file, source.weight, first, self.count - first, self.skipped - skipped
        )

    def flush(self, batch: list[bytes]) -> None:
        if not batch:
            return
        joined = b"\n".join(batch) + b"\n"
        if joined.count(b"\n") > len(batch) or b"\r" in joined:
            # JSON allows line ends between values; a space is equivalent.
            batch = [row.replace(b"\r", b" ").replace(b"\n", b" ") for row in batch]
            joined = b"\n".join(batch) + b"\n"
        ends = self.end + np.cumsum([len(row) + 1 for row in batch], dtype=np.int64)
        self.rows.write(joined)
        self.offsets.write(ends.tobytes())
        self.sha.update(joined)
        self.count, self.end = self.count + len(batch), int(ends[-1])
        if self.progress:  # the bytes written are about the bytes read
            self.progress(min(self.read + self.end - self.began, self.total), self.total)


def plainly_right(data: bytes) -> bool:
    """A fast check that accepts usual rows; a row that it rejects goes to the schema, in twice the time."""
    try:
        row = orjson.loads(data)
        turns, image = row["conversations"], row.get("image")
        for turn in turns:
            if turn["from"] not in ROLES or type(turn["value"]) is not str:
                return False
        for path in image if type(image) is list else ():
            if type(path) is not str:
                return False
        # By exact type: what may still be valid (null, a number as text, true) goes to the schema, which
        # decides.
        get = row.get
        return (
            type(turns) is list
            and len(turns) > 0
            and (image is None or type(image) in (str, list))
            and type(get("id", 0)) in (str, int)
            and type(get("question_id", 0)) in (str, int)
            and type(get("dataset", "")) is str
            and type(get("split", "")) is str
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path.") from error
