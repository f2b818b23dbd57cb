"""Streams the rows of a JSON list or a JSONL file; memory is one block, whatever the size of the file.

A JSON parser would read a list of 2.76 GB as one value. To cut it into rows, only the brackets matter: numpy
finds quotes and brackets in a block, those inside strings are dropped, and the nesting depth says where a row
starts and ends. A caller that parses every row anyway passes its check as a ``proof``: rows are then cut
where they seem to end, and brackets are counted only if the proof fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viscot_core.errors import DataError

BLOCK_BYTES = 1 << 16  # numpy's arrays then fit the CPU cache: twice as fast as one megabyte
_QUOTE, _BACKSLASH, _NEWLINE = ord('"'), ord("\\"), ord("\n")
_CURLY = 0x20  # the bit that makes [ into { and ] into }
_FIRST_KEY = re.compile(rb'\s*"[^"\\]{1,40}"')
_MOST_KEYS = 16

Proof = Callable[[bytes], bool]
"""Returns False for every text that is not one complete JSON object; it may reject others too."""


class RawRow(NamedTuple):
    """A row of the file: its bytes, the byte and line (from 1) where it starts, and its number."""

    data: bytes
    start: int
    line: int
    number: int


def raw_rows(path: Path, block: int = BLOCK_BYTES) -> Iterator[RawRow]:
    """The rows of ``path`` in order, one block in memory. Raises DataError if the file is broken."""
    with _opened(path) as file:
        if _first_byte(file) != b"[":
            yield from _line_rows(file)
            return
        cutter = _Cutter(path, file, block)
        yield from cutter.exactly()
        while not cutter.closed:
            cutter.read_on()
            yield from cutter.exactly()


def proven_rows(path: Path, proof: Proof, block: int = 4 * BLOCK_BYTES) -> Iterator[list[bytes] | RawRow]:
    """``raw_rows`` in half the time: rows that ``proof`` accepts come in lists, the others one by one."""
    with _opened(path) as file:
        if _first_byte(file) != b"[":
            yield from _line_rows(file)
            return
        cutter = _Cutter(path, file, block)
        # The first block is cut by its brackets: from it the cutter learns the gap and the first keys.
        yield from cutter.exactly()
        while not cutter.closed:
            cutter.read_on()
            yield cutter.proven(proof)
            yield from cutter.exactly()


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path.") from error


def first_byte(path: Path) -> bytes:
    """The first byte of a file that is not white space: ``[`` starts a JSON list, ``{`` a row of JSONL."""
    with path.open("rb") as file:
        return _first_byte(file)


def _first_byte(file: IO[bytes]) -> bytes:
    """The first byte that is not white space; the file is left at its start (after a byte order mark)."""
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


class _Cutter:
    """Cuts rows from ``data``, a part of a JSON list that starts at byte ``start`` of the file.

    ``used`` of its bytes have been cut into rows; the file is at ``line`` there. The text between two rows is
    nearly always the same: a ``gap`` that ends with ``{``, then one of a few first ``keys``. Both are learned
    from rows that were cut by their brackets; the first ``lead`` bytes of the gap end the row before.
    """

    def __init__(self, path: Path, file: IO[bytes], block: int) -> None:
        self.path, self.file, self.block, self.size = path, file, block, block
        start, head = file.tell(), file.read(max(block, 4096))
        skip = head.index(b"[") + 1
        self.data, self.start, self.line = head[skip:], start + skip, 1 + head.count(b"\n", 0, skip)
        self.used = self.number = self.lead = 0
        self.gap, self.closed = b"", False
        self.keys: tuple[bytes, ...] = ()

    def read_on(self) -> None:
        """Drop the rows that were cut and read the next block."""
        # A row longer than the block doubles the next read, so the work stays linear.
        self.size = self.block if self.used else 2 * self.size
        if not (more := self.file.read(self.size)):
            raise DataError(
                f"{self.path}:{self.line}: the file ends inside row {self.number}; "
                "it is incomplete, fetch it again."
            )
        self.data, self.start, self.used = self.data[self.used :] + more, self.start + self.used, 0

    def proven(self, proof: Proof) -> list[bytes]:
        """Rows up to the first that does not end at a usual gap or that ``proof`` rejects.

        As certain as counting brackets: a text that starts where a row starts and is one complete JSON object
        is that row.
        """
        rows: list[bytes] = []
        data, gap, at = self.data, self.gap, self.used
        find, starts_with, behind = data.find, data.startswith, gap[self.lead :]
        while self.keys and starts_with(behind, at):
            begin = at + len(behind) - 1
            hit = find(gap, begin)
            # Text inside a string may look like a gap. Only one that a known first key follows is tried as a
            # border; the proof refuses what is still wrong.
            while hit >= 0 and not starts_with(self.keys, hit + len(gap)):
                hit = find(gap, hit + 1)
            if hit < 0 or not proof(row := data[begin : hit + self.lead]):
                break
            rows.append(row)
            at = hit + self.lead
        self.line += _lines(data, self.used, at)
        self.used, self.number = at, self.number + len(rows)
        return rows

    def exactly(self) -> Iterator[RawRow]:
        """All remaining complete rows, found by their brackets; sets ``closed`` at the end of the list."""
        base, line = self.used, self.line
        spans, closed = _spans(self.data[base:])
        for begin, end, above in spans:
            gap = self._between(base + begin, b"," if self.number else b"", line + above, "a row")
            if self.used > base:
                # The gap starts with the end of the row before it, ``]}`` of its conversations if it has
                # them: a longer gap has fewer false hits inside strings.
                self.lead = 2 if self.data[self.used - 2 : self.used] == b"]}" else 1
                self.gap = self.data[self.used - self.lead : self.used] + gap + b"{"
            key = _FIRST_KEY.match(self.data, base + begin + 1)
            if key and key[0] not in self.keys and len(self.keys) < _MOST_KEYS:
                self.keys += (key[0],)
            self.used, self.number = base + end, self.number + 1
            row = self.data[base + begin : base + end]
            yield RawRow(row, self.start + base + begin, line + above, self.number - 1)
        self.line += _lines(self.data, base, self.used)
        if closed >= 0:
            self._between(base + closed, b"", self.line, "the list's end")
            self.closed = True

    def _between(self, end: int, expected: bytes, line: int, before: str) -> bytes:
        """The bytes between the last row and ``end``."""
        gap = self.data[self.used : end]
        if (found := gap.strip()) != expected:
            fault = f"unexpected {_short(found)}" if found else "there is no comma"
            raise DataError(f"{self.path}:{line}: {fault} before {before}; repair the JSON list.")
        return gap


def _lines(data: bytes, begin: int, end: int) -> int:
    """Line ends in ``data[begin:end]``."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8)[begin:end] == _NEWLINE))


def _spans(data: bytes) -> tuple[list[tuple[int, int, int]], int]:
    """``(start, end, newlines before)`` of every complete row, and where the list ends (-1: not in ``data``).

    ``data`` starts outside of rows and strings.
    """
    block = np.frombuffer(data, np.uint8)
    # With this bit set, one comparison finds both kinds of bracket.
    curly = block | _CURLY
    marks = np.flatnonzero((curly == ord("{")) | (curly == ord("}")) | (block == _QUOTE))
    kinds = curly[marks]
    quotes = kinds == _QUOTE
    # Parity of the unescaped quotes so far, bool[marks]: odd is inside a string (a closing quote counts as
    # outside).
    in_string = np.cumsum(quotes & ~_escaped(block, marks)) & 1
    brackets = ~quotes & (in_string == 0)
    at, opens = marks[brackets], kinds[brackets] == ord("{")
    # 0 between rows, 1 at a row's own bracket. The list's opening bracket was cut off, so its end is the
    # first -1.
    depth = np.cumsum(np.where(opens, 1, -1))
    closed = -1
    if (below := np.flatnonzero(depth < 0)).size:
        closed = int(at[below[0]])
        at, opens, depth = at[: below[0]], opens[: below[0]], depth[: below[0]]
    ends = at[(depth == 0) & ~opens] + 1
    # The last row may go on in the next block: it has a start and no end.
    starts = at[(depth == 1) & opens][: len(ends)]
    above = np.searchsorted(np.flatnonzero(block == _NEWLINE), starts)
    return list(zip(starts.tolist(), ends.tolist(), above.tolist(), strict=True)), closed


def _escaped(block: NDArray[np.uint8], marks: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of ``marks`` follow an odd number of backslashes; bool, the shape of ``marks``."""
    behind = block[marks - 1] == _BACKSLASH  # index -1 is wrong but harmless: the first byte is in no string
    if behind.any():
        # Every backslash -> where its unbroken run starts; a mark behind a run of odd length is escaped
        # (``\\"`` is a backslash and a closing quote).
        slashes = np.flatnonzero(block == _BACKSLASH)
        first = np.r_[True, np.diff(slashes) > 1]
        run_starts = slashes[first][np.cumsum(first) - 1]
        run_lengths = marks[behind] - run_starts[np.searchsorted(slashes, marks[behind] - 1)]
        behind[behind] = run_lengths % 2 == 1
    return behind


def _short(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:40] + "...")
