"""First turns of questions that are not answered yet, kept as they come: ``turns.jsonl`` of a run folder.

A reply of a server is paid for. If its question's answer then meets a spent budget, a broken server or a
kill, the next call of the same command goes on from what was said. The ranks of a sharded run write files of
their own, ``turns.SESSION-RANK.jsonl``. All are gone once nothing is open.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import orjson

from viscot_core.lines import end_of_last_line
from viscot_core.rollout import Turn
from viscot_core.runs.records import Key
from viscot_core.runs.shards import Shard

TURNS_FILE = "turns.jsonl"
_PARTS = "turns.*.jsonl"


class Turns:
    """The turns of a run folder, those of all ranks; new ones go into the file of ``shard``.

    Threads may share one; the locks of `Journal` keep other processes from writing the same file.
    """

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        mine = shard or Shard()
        self._path = folder / (TURNS_FILE if mine.is_alone else f"turns.{mine.session}-{mine.rank}.jsonl")
        self._lock = threading.Lock()
        self._found: dict[Key, list[Turn]] = defaultdict(list)
        if self._path.exists():
            with self._path.open("r+b") as file:
                # A line that a kill cut short goes: its turn is asked once more. Only here: another rank may
                # be writing the line that ends its file.
                file.truncate(end_of_last_line(file, self._path.stat().st_size))
        # The turns of a question may lie in the files of several calls.
        rows = sorted((row for path in _files(folder) for row in _read(path)), key=lambda row: row[0])
        for _, key, turn in rows:
            self._found[key].append(turn)
        self._last = rows[-1][0] if rows else 0.0

    def of(self, key: Key) -> list[Turn]:
        """What was said of the question before, in order."""
        return list(self._found.get(key, ()))

    def add(self, key: Key, turn: Turn) -> None:
        """Keep a turn; it is in the file before this returns."""
        strategy, dataset, question_id = key
        row = {"strategy": strategy, "dataset": dataset, "question_id": question_id, **asdict(turn)}
        with self._lock, self._path.open("ab") as file:
            # Behind every turn that it may follow, whatever the clock says.
            self._last = max(math.nextafter(self._last, math.inf), time.time())
            file.write(orjson.dumps({**row, "at": self._last}, option=orjson.OPT_APPEND_NEWLINE))


def forget_turns(folder: Path) -> None:
    """Remove the turns of a run in which nothing is open."""
    for path in _files(folder):
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    """The file of runs of one process, then those of ranks."""
    return [*folder.glob(TURNS_FILE), *sorted(folder.glob(_PARTS))]


def _read(path: Path) -> Iterator[tuple[float, Key, Turn]]:
    """When each turn of a file was said (0 in files of older versions), of what, and the turn."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # being written, or cut short
            try:
                row = orjson.loads(line)
                key = (row.pop("strategy"), row.pop("dataset"), row.pop("question_id"))
                row["likeliest"] = tuple((text, float(log)) for text, log in row.get("likeliest", ()))
                yield float(row.pop("at", 0.0)), key, Turn(**row)
            except (ValueError, TypeError, LookupError):
                continue  # damaged, or of another version: asked once more
