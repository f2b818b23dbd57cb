"""How the synthetic data sets are written: images by several processes, rows as JSON and JSONL."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from viscot_core.processes import worker_pool

Job = tuple[Callable[[], Image.Image], Path]
"""What draws an image, and the file it goes into."""
HELD_OUT_SEED = 2**62
"""Validation scenes use seeds from here on; training scenes of any 32-bit ``--seed`` stay below."""


def write_images(jobs: Sequence[Job], workers: int, progress: Callable[[int, int], None] | None) -> None:
    """Draw and write every image as JPEG."""

    def report(done: int) -> None:
        if progress and (done % 100 == 0 or done == len(jobs)):
            progress(done, len(jobs))

    if workers <= 1:
        for done, job in enumerate(jobs, 1):
            _write_image(job)
            report(done)
        return
    with worker_pool(workers) as pool:
        for done, _ in enumerate(pool.map(_write_image, jobs, chunksize=32), 1):
            report(done)


def _write_image(job: Job) -> None:
    draw, path = job
    draw().save(path, "JPEG", quality=90)


def write_json(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    """A JSON list, a row a line; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return len(rows)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    """A row a line; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)
