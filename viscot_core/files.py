"""Atomic writing: a kill leaves the old file or the new one, never half of one."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from viscot_core.errors import UsageError

_PARTIAL = ".partial"


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
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file that replaces ``path`` when the block succeeds, and is deleted when it fails.

    A missing folder is created. If several processes write the same file at once, the last one wins. A kill
    leaves at most a ``.NAME.*.partial`` beside ``path``.
    """
    with folder_for(path):
        partial = partial_name(path)
        try:
            with partial.open("w", encoding="utf-8") as file:
                yield file
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder that becomes ``folder`` when the block succeeds, and is deleted when it fails.

    If ``folder`` exists and is empty (a mounted disk, a shell's working folder), it is kept and the content
    is moved into it. A kill leaves at most a ``.*.partial`` beside or inside it.

    Raises:
        UsageError: ``folder`` is not empty.
    """
    place = folder.resolve()
    there = place.exists()
    # Remains of a killed call do not make a folder count as used.
    if there and (not place.is_dir() or any(path.suffix != _PARTIAL for path in place.iterdir())):
        raise UsageError(f"{folder} is not empty; give a new folder with --out.")
    with folder_for(place):
        building = partial_name(place / "new" if there else place)
        try:
            building.mkdir()
            yield building
            if there:
                # A mounted disk or a working folder cannot be replaced by a rename, so its entries are moved
                # one by one: the only step here that a kill can cut in two.
                for path in building.iterdir():
                    path.replace(place / path.name)
            else:
                building.replace(place)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def partial_name(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses and that has another file ending."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")


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
