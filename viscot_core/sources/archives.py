"""Unpacks untrusted archives: nothing outside the target is touched, and every refused member is named.

Only plain files are unpacked. A member is refused if its path leaves the target, if it is a link or a
device, if two members have the same target, or if the archive would unpack to far more bytes, files or names
than its size explains. Each file is written under a temporary name and renamed; a file that exists with the
right size is not written again.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Event
from typing import IO

from viscot_core.errors import DataError
from viscot_core.sources.catalog import STATE_FOLDER, Placing
from viscot_core.sources.transfer import Stopped

_BLOCK = 1 << 20
_HEADER = 1 << 16
_NAME, _FOLDERS = 4096, 100
_DIRECTORY = 1 << 27
"""Bytes of a zip's list of members, which is read at once; that of a million images has about 100 MB."""
_NOT_PLAIN = "it is a link, a device or sparse"
_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OverflowError, RuntimeError, ValueError),
)
"""Exceptions of Python's archive readers for bytes that are not an archive."""
Progress = Callable[[int], None]
"""Called with the bytes just unpacked."""


class Damaged(DataError):
    """The bytes are not an archive, or only the beginning of one."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """An archive that unpacks to over ``ratio`` times its size (and over ``floor`` bytes) is refused.

    So is one with more than a member for every ``member_bytes`` of it (and over ``few``), or with over
    ``names`` characters of member names.
    """

    ratio: int = 100
    floor: int = 1 << 30
    member_bytes: int = 256
    few: int = 10_000
    names: int = 256 << 20

    def of(self, archive_bytes: int) -> Most:
        """The limits of an archive of that size."""
        members = max(self.few, archive_bytes // self.member_bytes)
        return Most(max(self.floor, archive_bytes * self.ratio), members, self.names)


@dataclass(frozen=True, slots=True)
class Most:
    """What one archive may hold: bytes unpacked, members, characters of their names."""

    bytes: int
    members: int = 10_000
    names: int = 256 << 20


@dataclass(slots=True)
class Unpacker:
    """Writes members under ``into`` and counts them. One per archive: it remembers which paths are taken."""

    into: Path
    placing: Placing
    most: Most
    name: str = "archive"
    stop: Event = field(default_factory=Event)
    progress: Progress = lambda count: None
    files: int = 0
    total: int = 0
    _members: int = 0
    _names: int = 0
    _seen: int = 0
    _taken: set[str] = field(default_factory=set)
    _made: set[Path] = field(default_factory=set)

    @property
    def partial(self) -> Path:
        """The temporary file, on the same disk as its target; only this archive's unpacking uses it."""
        return self.into / f".unpacking-{self.name}"

    def add(self, member: str, size: int, read: Callable[[], IO[bytes]]) -> None:
        """Unpack one plain file of ``size`` bytes. Raises DataError, naming the member, to refuse it."""
        place = self.place(member, size)
        if place is None:
            return
        target = self.into / place
        self._folder(target.parent, member)
        if not (target.is_file() and not target.is_symlink() and target.stat().st_size == size):
            if target.is_dir():
                raise refused(member, "a folder has this name")
            self._write(target, size, member, read)
        self.files += 1
        self.total += size
        self.progress(size)

    def place(self, member: str, size: int) -> str | None:
        """The member's path under the target, None if it is not wanted; reserves the path and the bytes."""
        if self.stop.is_set():
            raise Stopped
        safe_name(member)
        self.count(member, size)
        place = self.placing.place(member)
        if place is None:
            return None
        if place.partition("/")[0] == STATE_FOLDER:
            raise refused(member, "viscot keeps its own records there")
        if place in self._taken:
            raise refused(member, f"another member is already called {place}")
        self._taken.add(place)
        return place

    def count(self, member: str, size: int = 0) -> None:
        """Count a member, wanted or not: what is skipped is read and unpacked too."""
        self._members, self._names, self._seen = (
            self._members + 1,
            self._names + len(member),
            self._seen + size,
        )
        if self._seen > self.most.bytes:
            raise refused(member, f"with it the archive would unpack to over {self.most.bytes:,} bytes")
        if self._members > self.most.members:
            raise refused(member, f"the archive has more than {self.most.members:,} members")
        if self._names > self.most.names:
            raise refused(member, f"the archive's names have over {self.most.names:,} characters together")

    def _folder(self, folder: Path, member: str) -> None:
        """Create the folder without following links below the target."""
        if folder in self._made:
            return
        current = self.into
        for part in folder.relative_to(self.into).parts:
            current /= part
            if current.is_symlink():
                raise refused(member, f"{current} is a link")
            if current.exists() and not current.is_dir():
                raise refused(member, f"its folder {current} is a file")
            current.mkdir(exist_ok=True)
        self._made.add(folder)

    def _write(self, target: Path, size: int, member: str, read: Callable[[], IO[bytes]]) -> None:
        written = 0
        with read() as source, self.partial.open("wb") as file:
            while block := source.read(_BLOCK):
                if self.stop.is_set():
                    raise Stopped
                written += len(block)
                # One block too many is proof enough; the rest of a bomb is not read.
                if written > size:
                    break
                file.write(block)
        if written != size:
            raise refused(member, f"it contains {written:,} bytes or more, not the {size:,} it declares")
        os.replace(self.partial, target)


def unpack(
    archive: Path,
    kind: str,
    into: Path,
    placing: Placing | None = None,
    *,
    name: str = "archive",
    limits: UnpackLimits | None = None,
    stop: Event | None = None,
    progress: Progress = lambda count: None,
) -> Unpacker:
    """Unpack ``archive`` (``zip`` or ``tar``, compressed or not) under ``into`` and return what was unpacked.

    A zip is checked completely before its first byte is written, a tar member by member. Raises Damaged if it
    is not an archive, DataError if a member is refused.
    """
    into.mkdir(parents=True, exist_ok=True)
    most = (limits or UnpackLimits()).of(archive.stat().st_size)
    unpacker = Unpacker(into, placing or Placing(), most, name, stop or Event(), progress)
    try:
        if kind == "zip":
            _unpack_zip(archive, unpacker, most)
        else:
            with tarfile.open(archive, "r:*", tarinfo=StrictTarInfo) as tar:
                unpack_tar(tar, unpacker)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault; gzip and bz2 report damage as an OSError without a number
        raise Damaged(f"the archive is damaged ({error})") from error
    finally:
        unpacker.partial.unlink(missing_ok=True)
    return unpacker


class _ZipBytes(io.BufferedReader):
    """A zip's file. Python reads the list of members whole, and keeps ten times its bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _DIRECTORY:
            raise DataError(f"the archive's list of members has {size:,} bytes; do not use this archive.")
        return super().read(size)


def _unpack_zip(archive: Path, unpacker: Unpacker, most: Most) -> None:
    with _ZipBytes(io.FileIO(archive)) as file, zipfile.ZipFile(file) as zipped:
        members = [member for member in zipped.infolist() if not member.is_dir()]
        # A pass that writes nothing, with an unpacker of its own: all refusals come before the first byte.
        judge = Unpacker(unpacker.into, unpacker.placing, most)
        for member in members:
            # The upper 16 bits are the Unix mode; they are 0 in archives made elsewhere.
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise refused(member.filename, "it is a link or a device")
            if member.flag_bits & 1:
                raise refused(member.filename, "it is encrypted")
            judge.place(member.filename, member.file_size)
        for member in members:
            unpacker.add(member.filename, member.file_size, lambda member=member: zipped.open(member))  # type: ignore[misc]


class StrictTarInfo(tarfile.TarInfo):
    """Treats an invalid header as damage; Python's tarfile silently takes it for the end.

    Headers that carry a long name or attributes have at most ``_HEADER`` bytes: tarfile reads them whole, and
    a megabyte of gzip can hold a name of a gigabyte.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # The hook that tarfile documents for subclasses; it runs before any of the header's content is read.
        if self.type in _EXTENDED and self.size > _HEADER:
            raise DataError(
                f"the archive has a name or an attribute of {self.size:,} bytes; do not use this archive."
            )
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise refused(self.name, _NOT_PLAIN)
        return super()._proc_member(tar)  # type: ignore[misc]

    def _proc_gnusparse_10(self, *_: object) -> None:
        # Its map lies in the content and may have any length.
        raise refused(self.name, _NOT_PLAIN)

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictTarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"no member starts where one should: {error}") from error


def unpack_tar(
    tar: tarfile.TarFile, unpacker: Unpacker, after: Callable[[int], None] = lambda at: None
) -> None:
    """Unpack the members of an open tar in order; ``after`` gets the position where each one ends."""
    for member in tar:
        if member.isreg() and not member.issparse():
            unpacker.add(member.name, member.size, lambda member=member: _content(tar, member, unpacker.into))  # type: ignore[misc]
        elif not member.isdir():
            raise refused(member.name, _NOT_PLAIN)
        else:
            safe_name(member.name)
            unpacker.count(member.name)
        # A tar fills content up to blocks of 512 bytes: the next header starts there.
        after(member.offset_data + -(-(member.size if member.isreg() else 0) // 512) * 512)
        tar.members = []  # type: ignore[attr-defined]  # do not remember a million members


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> IO[bytes]:
    """The bytes of a member that passed our own checks; Python's ``data`` filter (PEP 706) must agree."""
    try:
        tarfile.data_filter(member, str(into))
    except tarfile.FilterError as error:
        raise refused(member.name, str(error)) from error
    content = tar.extractfile(member)
    if content is None:
        raise refused(member.name, "it is not a plain file")
    return content


def safe_name(member: str) -> None:
    """Refuse a member path that is empty, absolute, or leaves its folder."""
    path = PurePosixPath(member)
    # On Windows a backslash separates folders, and a colon in the first part names a drive or a stream.
    if not member or "\0" in member or "\\" in member or ":" in member.partition("/")[0]:
        raise refused(member, "its name is not safe")
    if path.is_absolute():
        raise refused(member, "its path is absolute")
    if ".." in path.parts:
        raise refused(member, "its path leaves the folder")
    if len(member) > _NAME or len(path.parts) > _FOLDERS:
        raise refused(member[:80], "its name is too long")


def refused(member: str, why: str) -> DataError:
    """The error for a refused member: its name and the reason."""
    return DataError(f"the archive's member {member!r} is refused: {why}; do not use this archive.")


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk on which ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
