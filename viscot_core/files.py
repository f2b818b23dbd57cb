"""Writing files so that a kill leaves the old one or the new one, never half of one."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    The folder is made where it is missing. Several may write the same file at once: the last one counts. A
    kill leaves at most a ``.NAME.*.partial`` beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
        return Path(own).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viscot" / name
