"""What is wrong with a file of rows, found before a GPU is rented: row, field, one sentence; and counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.data.faults import faults
from viscot_core.data.formats.layouts import RowLayout
from viscot_core.data.formats.read import Reader, RowFinding, layout
from viscot_core.errors import DataError

TWICE = "repeated row"


@dataclass(slots=True)
class FileReport:
    """What a file holds and what is wrong with it; ``notes`` are odd and can be trained on."""

    layout: RowLayout
    rows: int = 0
    images: int = 0
    answers: int = 0
    learned: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    findings: list[RowFinding] = field(default_factory=list)
    """The first of each kind, and at most ``MOST`` in all."""


MOST = 1000


def check_file(reader: Reader, progress: Callable[[int], None] | None = None) -> FileReport:
    """Look at every row: its layout, images, boxes, and whether there is something to learn.

    Raises:
        DataError: the file as a whole is damaged or of no known layout.
    """
    report = FileReport(layout(reader.path))
    seen: set[bytes] = set()
    for found in reader.rows():
        report.rows += 1
        if isinstance(found, RowFinding):
            _add(report, found)
        else:
            number, row, _ = found
            report.images += len(row.image)
            answers = [turn for turn in row.turns if turn.role == "assistant"]
            report.answers += len(answers)
            report.learned += sum(turn.learned for turn in answers)
            for finding in _findings(number, row, reader):
                _add(report, finding)
            key = hashlib.blake2b(repr((row.image, row.turns)).encode("utf-8", "replace"), digest_size=12)
            report.notes[TWICE] += key.digest() in seen
            seen.add(key.digest())
        if progress:
            progress(1)
    return report


def _add(report: FileReport, finding: RowFinding) -> None:
    report.wrong[finding.kind] += 1
    if len(report.findings) < MOST:
        report.findings.append(finding)


def _findings(number: int, row: Conversation, reader: Reader) -> Iterator[RowFinding]:
    learned = [turn for turn in row.turns if turn.role == "assistant" and turn.learned]
    if not learned:
        yield RowFinding(number, "answer", "messages", "no assistant's message is there to be learned")
    unreadable = False
    for name in dict.fromkeys(split_crop(entry)[0] for entry in row.image):
        try:
            reader.size_of(name)
        except DataError as error:
            unreadable = True
            yield RowFinding(number, "image", "images", str(error))
    # Crops are compared with their images, where these can be read.
    for fault in faults(row, None if unreadable else reader.size_of):
        yield RowFinding(number, fault.kind, "messages", fault.detail)


def require_images(folder: Path) -> None:
    """Raises DataError where the folder of images is not there: every row would say so."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; --images is the one that the rows' paths are relative to.")
