"""One sample as the model sees it: the image with box and crop, the prompt, and what is supervised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from viscot_core.boxes.geometry import Box, BoxStatus, Window, crop_window, format_box, parse_box
from viscot_core.conversation import IMAGE, Message, detection_turns, refcoco_turns
from viscot_core.data.annotations import (
    Conversation,
    DetectionRow,
    MetadataRow,
    RefcocoRow,
    Row,
    Rows,
    describe,
)
from viscot_core.data.convert import to_conversation
from viscot_core.data.encode import training_turns
from viscot_core.data.mixture import Mixture
from viscot_core.data.rows import raw_rows
from viscot_core.data.stats import kind_of
from viscot_core.errors import DataError, UsageError, nearest
from viscot_core.families.base import Spans
from viscot_core.families.table import text_template
from viscot_core.images.drawing import draw_answer
from viscot_core.images.reading import open_image
from viscot_core.paths import inside


@dataclass(frozen=True, slots=True)
class DrawnSample:
    """A sample to show. ``spans`` cover the prompt: (text, whether the loss includes it).

    ``box``: the region, in pixels or in the padded square; ``window``: the crop the model is shown, if any.
    """

    row: Conversation
    sheet: Image.Image | None
    spans: Spans
    box: Box | None
    window: Window | None


def draw_sample(
    where: Path, which: str, *, images: Path | None = None, template: str = "vicuna_v1"
) -> DrawnSample:
    """The sample ``which`` of ``where``: ``cub:17`` in a data root, ``17`` (row number) in a file or mixture.

    In a data root ``cub:17`` is question 17 of ``benchmark/cub.json``, else row 17 of
    ``metadata/cub_cot_train.jsonl``; ``train:17`` is row 17 of ``train.json``, ``refcoco_unc_val:17`` of
    ``refcoco/REC_refcoco_unc_val.jsonl``. Raises UsageError if there is no such sample, ImageError if
    its image cannot be read.
    """
    words = text_template(template)
    row, root = _find(where, which)
    box, window, sheet = _drawn(row, images or root)
    return DrawnSample(row, sheet, words.spans(training_turns(row.turns)), box, window)


def _drawn(row: Conversation, root: Path) -> tuple[Box | None, Window | None, Image.Image | None]:
    """Region, crop and drawing. Without a crop, the region is the first box that the model says."""
    if not row.image:
        return None, None, None
    views = row.views()
    image = open_image(inside(root, views[0][0]))
    box = next((box for path, box in views if box and path == views[0][0]), None)
    window = crop_window(box, image.size) if box else None
    if box is None:
        said = (
            parse_box(turn.text) for turn in row.turns if turn.role == "assistant" and turn.text[:1] == "["
        )
        box = next((found.box for found in said if found.status is not BoxStatus.UNPARSABLE), None)
    who = {"user": "asked:", "assistant": "learned:"}
    lines = [f"{who[turn.role]} {turn.text.replace(IMAGE, '[image]')}" for turn in row.turns]
    return box, window, draw_answer(image, box, window, lines)


def _find(where: Path, which: str) -> tuple[Conversation, Path]:
    """The row and the folder its images are relative to."""
    if not where.exists():
        raise DataError(f"{where} does not exist; give a data root, a mixture or an annotation file.")
    name, colon, number = which.rpartition(":")
    if not number.isdigit():
        raise UsageError(f"'{which}' is not a sample; write NAME:NUMBER, such as cub:17, or a row's number.")
    if where.is_file():
        return _row_of(where, int(number)), _root_of(where)
    if (where / "mixture.json").exists():
        return _row_of(where, int(number)), where.parent
    if not colon:
        raise UsageError(f"'{which}' does not name a data set; write NAME:{which}, such as cub:{which}.")
    return _in_root(where, name, int(number)), where


def _in_root(root: Path, name: str, number: int) -> Conversation:
    benchmark = root / "benchmark" / f"{name}.json"
    if benchmark.exists():
        # One row is looked for: bad rows elsewhere in the file do not matter here.
        rows = Rows(benchmark, Conversation, skip_bad=1 << 60)
        if found := next((row for row in rows if str(row.id) == str(number)), None):
            return found
    for path in (
        root / "metadata" / f"{name}_cot_train.jsonl",
        root / "refcoco" / f"REC_{name}.jsonl",
        root / f"{name}.json",
        root / f"{name}.jsonl",
    ):
        if path.exists():
            return _row_of(path, number)
    if benchmark.exists():
        raise UsageError(f"{benchmark} has no question {number}; numbers are the file's question_id fields.")
    known = {
        path.stem.removesuffix("_cot_train").removeprefix("REC_")
        for group in ("benchmark/*.json", "metadata/*.jsonl", "refcoco/*.jsonl", "*.json")
        for path in root.glob(group)
    }
    hint = nearest(name, known) or f" It has {', '.join(sorted(known)) or 'no annotation files'}."
    raise UsageError(f"{root} has no '{name}'.{hint}")


def _row_of(path: Path, number: int) -> Conversation:
    missing = UsageError(f"{path} has no row {number}; the first row is 0.")
    if path.is_dir():
        mixture = Mixture.open(path)
        if number >= len(mixture):
            raise missing
        return mixture[number]
    kind = kind_of(path)
    raw = next((row for row in raw_rows(path) if row.number == number), None)
    if raw is None:
        raise missing
    try:
        return _as_conversation(kind.model_validate_json(raw.data), number)
    except ValidationError as error:
        raise DataError(f"{path}:{raw.line}: {describe(error)}; correct the row.") from error


def _as_conversation(row: Row, number: int) -> Conversation:
    """Any row as the conversation that the model reads and learns."""
    if isinstance(row, MetadataRow):
        return to_conversation(row, number)
    if isinstance(row, DetectionRow):
        ask = refcoco_turns if isinstance(row, RefcocoRow) else detection_turns
        turns = (*ask(row.expression), Message("assistant", format_box(row.box.to_square(row.size))))
        return Conversation(id=number, image=(row.image,), turns=turns)
    assert isinstance(row, Conversation)
    return row


def _root_of(file: Path) -> Path:
    """The data root of an annotation file."""
    inner = file.parent.name in ("benchmark", "benchmark_det", "metadata", "refcoco")
    return file.parent.parent if inner else file.parent
