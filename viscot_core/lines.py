"""Append-only files: locks, and repair of a last line that a kill cut short."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
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


@contextlib.contextmanager
def locked_file(path: Path, *, wait: bool) -> Iterator[IO[bytes] | None]:
    """``path``, created where it is missing, open and locked by this process alone for the block.

    None where another holds it (``wait=False``). What a killed process left in it is still there.
    """
    # Never through a link that somebody put in its place, and not truncated before it is locked.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with open(os.open(path, flags, 0o666), "r+b") as file:
            if wait:
                # Where a file system has no locks, the last writer wins.
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            elif not try_lock(file):
                yield None
                return
            # The holder before us renames or removes it: then this lock is on a file without this name.
            if _is_file_at(file, path):
                yield file
                return


def _is_file_at(file: IO[bytes], path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


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
