"""Stream the rows of a JSON list or a JSONL file without ever holding the file: memory is one block.

A 2.76 GB JSON list is one value to every JSON parser. Only its brackets matter for cutting it into rows:
numpy finds quotes and brackets in a block, those inside strings are dropped, and the running depth says
where a row starts and ends. Rows stay bytes; the schema parses each once (``annotations``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viscot_core.errors import DataError

BLOCK_BYTES = 1 << 16  # what numpy makes of it stays in the cache: half the time of a megabyte
_QUOTE, _BACKSLASH, _NEWLINE = ord('"'), ord("\\"), ord("\n")
_CURLY = 0x20  # the bit that makes [ into { and ] into }


class RawRow(NamedTuple):
    """A row as it stands in the file: its bytes, the byte and line (from 1) it starts on, its number."""

    data: bytes
    start: int
    line: int
    number: int


def raw_rows(path: Path, block: int = BLOCK_BYTES) -> Iterator[RawRow]:
    """The rows of ``path`` in order, one block in memory. Raises DataError where the file is broken."""
    try:
        with path.open("rb") as file:
            first = _first_byte(file)
            yield from _list_rows(path, file, block) if first == b"[" else _line_rows(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path.") from error


def first_byte(path: Path) -> bytes:
    """The first byte of a file that is no white space: ``[`` opens a JSON list, ``{`` a row of JSONL."""
    with path.open("rb") as file:
        return _first_byte(file)


def _first_byte(file: IO[bytes]) -> bytes:
    """The first byte that says something; the file is left at its start (after a byte order mark)."""
    start = 3 if file.read(3) == b"\xef\xbb\xbf" else 0
    file.seek(start)
    head = file.read(4096).lstrip()
    file.seek(start)
    return head[:1]


def _line_rows(file: IO[bytes]) -> Iterator[RawRow]:
    number, start = 0, file.tell()
    for line_number, line in enumerate(file, 1):
        if data := line.strip():
            yield RawRow(data, start + line.index(data), line_number, number)
            number += 1
        start += len(line)


def _list_rows(path: Path, file: IO[bytes], block: int) -> Iterator[RawRow]:
    start = file.tell()
    rest = file.read(max(block, 4096))
    skip = rest.index(b"[") + 1
    line, number, size = 1 + rest.count(b"\n", 0, skip), 0, block
    rest, comma, start = rest[skip:], b"", start + skip
    while True:
        spans, closed = _spans(rest)
        used = 0
        for begin, end, above in spans:
            if (gap := rest[used:begin].strip()) != comma:
                raise DataError(
                    f"{path}:{line + above}: {_short(gap)} stands before a row; repair the JSON list."
                )
            yield RawRow(rest[begin:end], start + begin, line + above, number)
            used, number, comma = end, number + 1, b","
        if closed >= 0:
            if gap := rest[used:closed].strip():
                raise DataError(
                    f"{path}:{line}: {_short(gap)} stands before the list's end; repair the JSON list."
                )
            return
        line += rest.count(b"\n", 0, used)
        size = block if spans else 2 * size  # a row longer than the block: read more at once, never quadratic
        if not (more := file.read(size)):
            raise DataError(
                f"{path}:{line}: the file ends inside row {number}; it is cut short, fetch it again."
            )
        rest, start = rest[used:] + more, start + used


def _spans(data: bytes) -> tuple[list[tuple[int, int, int]], int]:
    """``(start, end, newlines before)`` of every whole row, and where the list closes (-1: not in ``data``).

    ``data`` starts outside of any row and string.
    """
    block = np.frombuffer(data, np.uint8)
    curly = block | _CURLY
    marks = np.flatnonzero((curly == ord("{")) | (curly == ord("}")) | (block == _QUOTE))
    kinds = curly[marks]
    quotes = kinds == _QUOTE
    in_string = np.cumsum(quotes & ~_escaped(block, marks)) & 1
    brackets = ~quotes & (in_string == 0)
    at, opens = marks[brackets], kinds[brackets] == ord("{")
    depth = np.cumsum(np.where(opens, 1, -1))
    closed = -1
    if (below := np.flatnonzero(depth < 0)).size:
        closed = int(at[below[0]])
        at, opens, depth = at[: below[0]], opens[: below[0]], depth[: below[0]]
    ends = at[(depth == 0) & ~opens] + 1
    starts = at[(depth == 1) & opens][: len(ends)]
    above = np.searchsorted(np.flatnonzero(block == _NEWLINE), starts)
    return list(zip(starts.tolist(), ends.tolist(), above.tolist(), strict=True)), closed


def _escaped(block: NDArray[np.uint8], marks: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of ``marks`` stand behind an odd run of backslashes."""
    behind = block[marks - 1] == _BACKSLASH  # before the first byte there is none: it is no part of a string
    if behind.any():
        slashes = np.flatnonzero(block == _BACKSLASH)
        first = np.r_[True, np.diff(slashes) > 1]
        run_starts = slashes[first][np.cumsum(first) - 1]
        run_lengths = marks[behind] - run_starts[np.searchsorted(slashes, marks[behind] - 1)]
        behind[behind] = run_lengths % 2 == 1
    return behind


def _short(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:40] + "...")
