"""V*Bench: a folder for each kind of question, in it an image and a JSON file of the same name.

The JSON file holds ``question``, ``options`` (the first is right), ``target_object`` and ``bbox`` (x, y,
width, height in pixels, one for each object). Source: huggingface.co/datasets/craigwu/vstar_bench.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.errors import DataError
from viscot_core.tasks.benchmarks.entry import BenchmarkRow

KINDS = ("direct_attributes", "relative_position")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def question_files(folder: Path) -> Sequence[Path]:
    """The JSON files of both kinds of question, in order.

    Raises:
        DataError: there are none.
    """
    found = [path for kind in KINDS for path in sorted((folder / kind).glob("*.json"))]
    if not found:
        raise DataError(f"{folder} has no {KINDS[0]}/*.json; put the folders of V*Bench there.")
    return found


def read_vstar(folder: Path) -> Iterator[BenchmarkRow]:
    """The questions of both folders. Raises DataError for a damaged file."""
    for path in question_files(folder):
        try:
            row = json.loads(path.read_bytes())
            boxes = tuple(
                Box(float(x), float(y), float(x) + float(width), float(y) + float(height), Frame.ORIGINAL)
                for x, y, width, height in row.get("bbox", [])
            )
            question, listed = row["question"], row["options"]
            if not isinstance(question, str) or not isinstance(listed, list):
                raise TypeError("question is a text, and options are a list")
            options = tuple(str(option).strip() for option in listed)
            yield BenchmarkRow(
                id=f"{path.parent.name}/{path.stem}",
                image=_image(path),
                question=question,
                answer=options[0],
                options=options,
                right=0,
                category=path.parent.name,
                boxes=boxes,
            )
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise DataError(f"{path} is no question of V*Bench ({error!r}); fetch it again.") from error


def _image(path: Path) -> Path:
    found = (path.with_suffix(ending) for ending in _IMAGES)
    return next((image for image in found if image.is_file()), path.with_suffix(_IMAGES[0]))
