"""Atomic writing: a kill or a power failure leaves the old file or the new one, never half of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from viscot_core.errors import UsageError
from viscot_core.lines import locked_file

_PARTIAL = ".partial"
_LOCK = ".lock"
_MOVES = ".moves.json"


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Create the folder of ``path`` for the block; if the block fails, new empty folders are removed."""
    # ``parents`` lists the innermost first: the order in which empty folders can be removed.
    missing = [folder for folder in path.absolute().parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: somebody else uses it
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that replaces it when the block succeeds, and is deleted when it fails.

    A missing folder is created. Processes that write one file at once take turns; the last one wins. What is
    replaced is on the disk: a power failure, too, leaves the old file or the new one. A kill leaves at most
    ``.NAME.partial``, which the next writer of the file takes over.
    """
    with folder_for(path), naming(path):
        partial = path.with_name(f".{path.name}{_PARTIAL}")
        with locked_file(partial, wait=True) as file:
            assert file is not None
            file.truncate()
            try:
                yield partial
                os.fsync(file.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name ``path`` in an error of the disk, which knows only a number: full, or a file beyond its limit."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file that replaces ``path`` when the block succeeds, as `atomic_path` says."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Hold ``path`` by the lock ``.NAME.lock`` beside it, which ends with the process, also after kill -9.

    Raises:
        UsageError: another process holds it.
    """
    lock = _lock_of(path)
    with locked_file(lock, wait=False) as file:
        if file is None:
            raise UsageError(f"Another process is writing {path}; wait for it, or give another --out.")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{_LOCK}")


@contextmanager
def taking_turns(path: Path) -> Iterator[None]:
    """Let one process at a time make ``path``: the others wait, and find then what it made."""
    wanted = path.with_name(f".{path.name}.wanted")
    with folder_for(wanted), locked_file(wanted, wait=True):
        try:
            yield
        finally:
            wanted.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder that becomes ``folder`` when the block succeeds, and is deleted when it fails.

    If ``folder`` exists and is empty (a mounted disk, a shell's working folder), it is kept and the content
    is moved into it; with ``replace``, what it holds goes, once the new content is complete. What appears is
    on the disk. A kill leaves at most ``.*.partial`` and ``.*.lock``, beside or inside it, or some of the new
    content: the next call for the same folder removes them.

    Raises:
        UsageError: ``folder`` is not empty, or another process is writing it.
    """
    place = folder.resolve()
    used = place.exists() and _used(place)
    # With remains of a killed call, what else is there may be that call's.
    inside = place.is_dir() and (not used or (not replace and _has_remains(place / "new")))
    name = place / "new" if inside else place
    building = _building_of(name)
    taken = f"{folder} is not empty; give a new folder with --out."
    if used and not replace and not _has_remains(name):
        raise UsageError(taken)
    with folder_for(place), sole_writer(name):
        _remove_unfinished(building, place)
        if place.exists() and not replace and _used(place):
            raise UsageError(taken)
        try:
            building.mkdir()
            yield building
            sync_folder(building)
            if inside:
                _move_content(building, place)
            else:
                _swap(building, place)
        finally:
            _remove_unfinished(building, place)


def _building_of(name: Path) -> Path:
    return name.with_name(f".{name.name}{_PARTIAL}")


def _has_remains(name: Path) -> bool:
    return _building_of(name).exists() or _lock_of(name).exists()


def _used(place: Path) -> bool:
    """Whether there is anything in ``place`` but the remains of killed calls."""
    return not place.is_dir() or any(path.suffix not in (_PARTIAL, _LOCK) for path in place.iterdir())


def _swap(building: Path, place: Path) -> None:
    """Rename ``building`` to ``place``; what is there is deleted last, so a kill in between leaves both."""
    replaced = place.with_name(f".{place.name}.replaced{_PARTIAL}")
    shutil.rmtree(replaced, ignore_errors=True)
    if place.exists():
        place.replace(replaced)
    building.replace(place)
    shutil.rmtree(replaced, ignore_errors=True)


def _move_content(building: Path, place: Path) -> None:
    """Move what is in ``building`` into ``place``, which a rename cannot replace, entry by entry.

    ``_MOVES`` says first which entries these are, by inode: after a kill they are known as our own.
    """
    entries = {path.name: path.lstat().st_ino for path in building.iterdir()}
    with atomic_write(building / _MOVES) as file:
        json.dump(entries, file)
    for name in entries:
        (building / name).replace(place / name)


def _moves(building: Path) -> dict[str, int]:
    """The entries that were being moved out of ``building`` when it was left; empty where there are none."""
    try:
        found: dict[str, int] = json.loads((building / _MOVES).read_text(encoding="utf-8"))
    except OSError:
        return {}
    return found


def _remove_unfinished(building: Path, place: Path) -> None:
    """Remove what a call left: the folder being built, and the part of it that was moved already."""
    moves = _moves(building)
    # When all of it was moved, the content is complete and stays.
    if any((building / name).exists() for name in moves):
        for name, inode in moves.items():
            moved = place / name
            # By inode: a file of this name that somebody else put here is not ours.
            if moved.exists() and moved.lstat().st_ino == inode:
                shutil.rmtree(moved) if moved.is_dir() else moved.unlink()
    shutil.rmtree(building, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Return when every file below ``folder`` is on the disk, so that a rename or a mark may say so."""
    for top, _, names in os.walk(folder):
        for name in names:
            # Links may lead nowhere, and some file systems do not sync.
            with suppress(OSError), (Path(top) / name).open("rb") as file:
                os.fsync(file.fileno())


def link_or_copy(path: Path, target: Path) -> None:
    """Make ``target`` a hard link of ``path``, or a copy where the disk has none; whole or not at all."""
    place_file(path, target, os.link, shutil.copyfile)


def place_file(path: Path, target: Path, *ways: Callable[[Path, Path], object]) -> None:
    """Make ``target`` from ``path`` in the first of ``ways`` that the disk allows; whole or not at all."""
    partial = target.with_name(f".{target.name}{_PARTIAL}")
    partial.unlink(missing_ok=True)
    # A rename between two links of one file does nothing and would leave the partial one.
    if target.exists() and target.samefile(path):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for number, way in enumerate(ways, start=1):
        try:
            way(path, partial)
            break
        except OSError:
            if number == len(ways):
                raise
    partial.replace(target)


def expanded(path: str | Path) -> Path:
    """The path with ``~`` and ``~user`` replaced; the name of an unknown user is kept."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def sha256_of(path: Path) -> str:
    """Hex digest of the file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder(name: str) -> Path:
    """``$VISCOT_CACHE/NAME``, else ``viscot/NAME`` in the user's cache folder (``$XDG_CACHE_HOME``)."""
    if own := os.environ.get("VISCOT_CACHE"):
        return expanded(own) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viscot" / name
