"""``infer --out FILE``: records as they come, and what a former call has answered is not asked again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from viscot_core.errors import UsageError
from viscot_core.files import atomic_write, folder_for
from viscot_core.infer.items import InferItem
from viscot_core.lines import set_broken_line_aside, try_lock

_KEY = ("image", "page", "question", "model", "strategy", "given_box")
"""What makes two records answers to the same; a row's own ``id`` is part of it, too."""


class AnswerFile:
    """A JSONL of records that one command at a time writes; a context manager.

    Raises:
        UsageError: another command writes it, or it holds something else than records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._done: dict[str, list[int]] = {}

    def __enter__(self) -> AnswerFile:
        with folder_for(self.path):
            self._open()
        records = self._read()
        set_broken_line_aside(self.path, self.path.with_name(f"{self.path.name}.broken"))
        done = [record for record in records if record["status"] in ("done", "truncated")]
        if len(done) < len(records):  # what failed is asked again
            with atomic_write(self.path) as file:
                file.writelines(json.dumps(record) + "\n" for record in done)
            self._open()
        for record in done:
            self._done.setdefault(_key(record), []).append(record.get("draw", 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def remaining(self, items: Sequence[InferItem], keys: Sequence[Mapping[str, Any]]) -> list[InferItem]:
        """The items that have no answer yet; ``keys`` are the first keys of their records."""
        done = {name: draws.copy() for name, draws in self._done.items()}
        left = []
        for item, key in zip(items, keys, strict=True):
            name = _key({"id": item.row.get("id"), **key})
            draw = item.draw or 0
            if draw in done.get(name, ()):
                done[name].remove(draw)
            else:
                left.append((name, item))
        unanswered = []
        for name, item in left:
            if other := done.get(
                name
            ):  # of before: it does not say its draw, and stands for the first one left
                other.pop()
            else:
                unanswered.append(item)
        return unanswered

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        if self._file is None:
            raise ValueError("the answer file is not open")
        # ASCII only: characters that are no Unicode text, of a damaged row, stay readable.
        self._file.write(json.dumps(record, default=str).encode() + b"\n")
        self._file.flush()

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        try:
            self._file = self.path.open("ab")
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}; choose another --out.") from error
        if not try_lock(self._file):
            raise UsageError(f"Another command is writing {self.path}; wait for it or choose another --out.")

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines; the last one may have been cut by a kill."""
        records = []
        *lines, cut = self.path.read_bytes().split(b"\n")
        if cut and not cut.startswith(b"{"):
            lines.append(cut)  # no record was begun here: another file
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                _ = record["status"], record["image"], record["question"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UsageError(
                    f"{self.path}, line {number} is no answer of 'viscot infer'; choose another --out."
                ) from error
            records.append(record)
        return records


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record.get("id"), *(record.get(name) for name in _KEY)], default=str)
