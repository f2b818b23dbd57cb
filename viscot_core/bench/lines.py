"""Append-only files and who may write them: locks, and lines that a kill cut short."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from viscot_core.errors import UsageError

LOCK_FILE = ".lock"
BROKEN_FILE = "predictions.broken"


def take_lock(folder: Path, *, shared: bool = False, name: str = LOCK_FILE) -> IO[bytes]:
    """Hold ``folder`` until the handle is closed; the ranks of one run hold it together (``shared``).

    Raises:
        UsageError: another process holds it.
    """
    handle = (folder / name).open("ab")
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise UsageError(
            f"Another process is writing to {folder}; wait for it, or choose another --out."
        ) from error
    return handle


def set_broken_line_aside(path: Path) -> None:
    """Move bytes after the last newline (a write cut short) to a side file: appending then starts a line."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        keep = end_of_last_line(file, size)
        if keep == size:
            return
        file.seek(keep)
        with (path.parent / BROKEN_FILE).open("ab") as broken:
            broken.write(file.read() + b"\n")
        file.truncate(keep)


def end_of_last_line(file: IO[bytes], size: int, block: int = 1 << 16) -> int:
    """Position after the last newline of a file of ``size`` bytes; 0 where it has none."""
    end = size
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
