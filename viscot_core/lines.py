"""Append-only files: locks, and repair of a last line that a kill cut short."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Any


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock ``file`` until it is closed (``shared``: with other readers); False if it is locked already."""
    try:
        # flock belongs to the open file: the kernel drops it when the file closes, also after a kill.
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def set_broken_line_aside(path: Path, aside: Path) -> None:
    """Move the bytes after the last newline (an interrupted write) to ``aside``, to append valid lines."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        keep = end_of_last_line(file, size)
        if keep == size:
            return
        file.seek(keep)
        # Copied before it is cut off: a kill in between leaves the bytes twice, never nowhere.
        with aside.open("ab") as broken:
            broken.write(file.read() + b"\n")
        file.truncate(keep)


def end_of_last_line(file: IO[bytes], size: int, block: int = 1 << 16) -> int:
    """The position after the last newline of a file of ``size`` bytes; 0 if it has none."""
    end = size
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
