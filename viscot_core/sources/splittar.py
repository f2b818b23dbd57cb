"""Unpacks a tar that was split into parts, one part at a time, so that only one part is on disk.

The parts are read as one stream. At the end of a part the bytes after the last complete member are saved as
``carry``, the part is deleted and the next one is fetched. ``progress.json`` names the next part, so after a
kill at most one part is read again.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viscot_core.errors import DataError
from viscot_core.files import atomic_path, atomic_write
from viscot_core.sources.archives import DAMAGE, Damaged, StrictTarInfo, Unpacker, unpack_tar
from viscot_core.sources.catalog import read_record

Fetch = Callable[[int, Path], None]
"""Called with a part's number and the path to write it to."""


class _Parts(io.RawIOBase):
    """The saved bytes and the parts from ``number`` on, read as one stream."""

    def __init__(self, folder: Path, number: int, count: int, fetch: Fetch) -> None:
        self.folder, self.number, self.count, self.fetch = folder, number, count, fetch
        self.start = 0  # position in the stream of the first byte that is still on disk
        self.safe = 0  # position behind the last whole member
        self._files = [path for path in (_carry(folder, number),) if path.exists()]
        self._files.append(self._fetched())
        self._at, self._open = 0, self._files[0].open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (count := self._open.readinto(buffer)):
            if not self._next_file():
                return 0
        return int(count)

    def close(self) -> None:
        self._open.close()
        super().close()

    def _next_file(self) -> bool:
        """Go to the next file; at the end of a part save the rest, delete the part and fetch the next one."""
        self._at += 1
        if self._at == len(self._files):
            if self.number + 1 == self.count:
                # Stay at the last file: a reader may ask again after the end.
                self._at -= 1
                return False
            self._open.close()
            self._advance()
        self._open.close()
        self._open = self._files[self._at].open("rb")
        return True

    def _advance(self) -> None:
        # In this order a kill loses nothing: the carry, then the progress, then the deletion. Until the
        # progress names the next part, the old one is read again behind its own carry.
        rest = self._rest()
        old, self.number = self._files, self.number + 1
        carry = _carry(self.folder, self.number)
        with atomic_path(carry) as partial:
            partial.write_bytes(rest)
        with atomic_write(self.folder / "progress.json") as file:
            json.dump({"part": self.number}, file)
        for path in old:
            path.unlink()
        self.start = self.safe
        self._files = [carry, self._fetched()]
        self._at = 1  # the carry was read as the end of the part before

    def _fetched(self) -> Path:
        path = part_path(self.folder, self.number)
        self.fetch(self.number, path)
        return path

    def _rest(self) -> bytes:
        """The bytes on disk after the last complete member."""
        skip, rest = self.safe - self.start, b""
        for path in self._files:
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(min(skip, size))
                rest += file.read()
            skip = max(0, skip - size)
        return rest


def unpack_parts(folder: Path, count: int, fetch: Fetch, unpacker: Unpacker) -> None:
    """Unpack a tar of ``count`` parts; ``fetch(n, path)`` fetches part ``n``, which is deleted after reading.

    ``folder`` keeps the progress. Raises Damaged if the parts are not a tar, DataError if a member is
    refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unpacker.into.mkdir(parents=True, exist_ok=True)
    first = next_part(folder)
    for number in range(first):  # a kill between the progress and the deletion leaves them
        part_path(folder, number).unlink(missing_ok=True)
        _carry(folder, number).unlink(missing_ok=True)
    parts = _Parts(folder, first, count, fetch)
    try:
        with (
            io.BufferedReader(parts, 1 << 20) as stream,
            # ``r|`` never seeks back: the parts behind the reader are gone.
            tarfile.open(fileobj=stream, mode="r|", tarinfo=StrictTarInfo) as tar,
        ):

            def after(end: int) -> None:
                parts.safe = end

            unpack_tar(tar, unpacker, after)
    except DAMAGE as error:
        raise Damaged(f"part {parts.number} of the split archive is damaged ({error})") from error
    finally:
        parts.close()
        unpacker.partial.unlink(missing_ok=True)


def next_part(folder: Path) -> int:
    """The number of the next part to read."""
    path = folder / "progress.json"
    try:
        return int(read_record(path).get("part", 0))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); remove its folder and fetch again.") from error


def part_path(folder: Path, number: int) -> Path:
    """The path of part ``number``."""
    return folder / f"part-{number:02d}"


def _carry(folder: Path, number: int) -> Path:
    """The path of the bytes saved from the parts before ``number``."""
    return folder / f"carry-{number}"
