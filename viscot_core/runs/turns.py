"""First turns of questions that are not answered yet, kept as they come: ``turns.jsonl`` of a run folder.

A reply of a server is paid for. If its question's answer then meets a spent budget, a broken server or a
kill, the next call of the same command goes on from what was said. The file is gone once nothing is open.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import orjson

from viscot_core.lines import end_of_last_line
from viscot_core.rollout import Turn
from viscot_core.runs.records import Key

TURNS_FILE = "turns.jsonl"


class Turns:
    """The turns of a run folder. Threads may share one; the folder's lock keeps other processes away."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TURNS_FILE
        self._lock = threading.Lock()
        self._found: dict[Key, list[Turn]] = defaultdict(list)
        if self._path.exists():
            self._read()

    def _read(self) -> None:
        with self._path.open("r+b") as file:
            # A line that a kill cut short goes: its turn is asked once more.
            file.truncate(end_of_last_line(file, self._path.stat().st_size))
            file.seek(0)
            for line in file:
                try:
                    row = orjson.loads(line)
                    key = (row.pop("strategy"), row.pop("dataset"), row.pop("question_id"))
                    row["likeliest"] = tuple((text, float(log)) for text, log in row.get("likeliest", ()))
                    self._found[key].append(Turn(**row))
                except (ValueError, TypeError, LookupError):
                    continue  # damaged, or of another version: asked once more

    def of(self, key: Key) -> list[Turn]:
        """What was said of the question before, in order."""
        return list(self._found.get(key, ()))

    def add(self, key: Key, turn: Turn) -> None:
        """Keep a turn; it is in the file before this returns."""
        strategy, dataset, question_id = key
        row = {"strategy": strategy, "dataset": dataset, "question_id": question_id, **asdict(turn)}
        with self._lock, self._path.open("ab") as file:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
