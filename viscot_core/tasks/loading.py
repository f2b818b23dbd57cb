"""What the tasks' loaders share: rows joined by id, a sample drawn by seed, a check of the images."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscot_core.data.annotations import R
from viscot_core.errors import DataError, UsageError
from viscot_core.tasks.base import Benchmark, Item


@dataclass(frozen=True)
class Selection:
    """Which of a benchmark's questions are asked.

    ``limit`` draws that many of each data set by ``seed``; a larger limit keeps what a smaller one had. With
    ``need_images`` False nothing is checked, for readers that need the annotations only.
    """

    limit: int | None = None
    seed: int = 0
    skip_missing: bool = False
    need_images: bool = True

    def sample(self, items: list[Item]) -> list[Item]:
        """The drawn items of one data set, in file order. Raises UsageError for a limit below 1."""
        if self.limit is None or self.limit >= len(items):
            return items
        if self.limit < 1:
            raise UsageError(
                f"--limit {self.limit} asks for nothing; give a number of questions per data set."
            )
        # By hash, not by random.sample: a question keeps its place whatever else the file holds.
        drawn = sorted(
            items, key=lambda i: hashlib.sha256(f"{self.seed}/{i.dataset}/{i.question_id}".encode()).digest()
        )
        kept = {str(item.question_id) for item in drawn[: self.limit]}
        return [item for item in items if str(item.question_id) in kept]

    def benchmark(self, items: list[Item], hashes: dict[str, str], files: dict[str, str]) -> Benchmark:
        """The items that have their image, with what is to be said about the others.

        Raises:
            DataError: images are missing (unless ``skip_missing``), or all of them.
        """
        warnings = tuple(_box_warnings(items))
        if not self.need_images:
            return Benchmark(tuple(items), {}, warnings, hashes, files)
        # Each path once: many questions share an image.
        there = {path: path.is_file() for path in dict.fromkeys(item.path for item in items)}
        missing = [item for item in items if not there[item.path]]
        if missing and not self.skip_missing:
            raise DataError(_missing_message(missing, len(items)))
        present = tuple(item for item in items if there[item.path])
        if not present:
            raise DataError(f"None of the {len(items)} questions has its image; check --data.")
        counted = Counter(item.dataset for item in missing)
        return Benchmark(present, dict(counted), warnings, hashes, files)


def put(table: dict[str, R], key: int | str | None, row: R, path: Path) -> None:
    """Add a row of ``path`` under its id. Raises DataError where it has none, or one that is taken."""
    if key is None:
        raise DataError(
            f"{path}: row {len(table) + 1} has no question_id; a row without one cannot be joined."
        )
    # Ids are compared as text: one file may have 17 where another has "17".
    if str(key) in table:
        raise DataError(f"{path}: two rows have the question_id {key}; keep one of them.")
    table[str(key)] = row


def digest_of(*files: Path) -> str:
    """Sixteen hex digits that change with any byte of the files."""
    digest = hashlib.sha256()
    for file in files:
        # In blocks: the table of a benchmark may hold its images (HR-Bench 8K: 2.8 GB).
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _missing_message(missing: Sequence[Item], total: int) -> str:
    paths = list(dict.fromkeys(str(item.path) for item in missing))
    shown = "\n  ".join(paths[:10])
    more = f"\n  and {len(paths) - 10} more" if len(paths) > 10 else ""
    return (
        f"{len(paths)} images are missing ({len(missing)} of {total} questions need them); "
        f"fetch them ('viscot data check' says how), or leave them out with --skip-missing:\n  {shown}{more}"
    )


def _box_warnings(items: Iterable[Item]) -> list[str]:
    """Boxes that can never be found, by data set: they are counted, and asked about all the same."""
    odd: Counter[str] = Counter()
    for item in items:
        if item.box is None:
            continue
        inside = item.box.clip(item.size)
        if not all(map(math.isfinite, item.box.coords)) or min(inside.width, inside.height) <= 0:
            odd[item.dataset] += 1
    return [
        f"{n} annotated boxes of {name} have no area inside the image: their IoU is 0"
        for name, n in odd.items()
    ]
