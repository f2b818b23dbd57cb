"""Writing files so that a kill leaves the old one or the new one, never half of one."""

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
    """The folder of ``path`` exists inside the block; a block that fails leaves no new empty folder."""
    missing = [folder for folder in path.absolute().parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it is not empty: somebody else's
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    The folder is made where it is missing. Several may write the same file at once: the last one counts. A
    kill leaves at most a ``.NAME.*.partial`` beside ``path``.
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
    """A folder to fill, which becomes ``folder`` when the block ends well and vanishes when it does not.

    An empty ``folder`` stays the one it is (a mounted disk, a shell's own) and takes in what was filled. A
    kill leaves at most a ``.*.partial`` beside or inside it.

    Raises:
        UsageError: ``folder`` holds something already.
    """
    place = folder.resolve()
    there = place.exists()
    if there and (not place.is_dir() or any(path.suffix != _PARTIAL for path in place.iterdir())):
        raise UsageError(f"{folder} holds something already; give a new folder with --out.")
    with folder_for(place):
        building = partial_name(place / "new" if there else place)
        try:
            building.mkdir()
            yield building
            if there:
                for path in building.iterdir():
                    path.replace(place / path.name)
            else:
                building.replace(place)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def partial_name(path: Path) -> Path:
    """A name beside ``path`` that no other process uses and no search by ending finds."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")


def expanded(path: str | Path) -> Path:
    """``~`` and ``~user`` spelled out; that of an unknown user is a name like any other."""
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
