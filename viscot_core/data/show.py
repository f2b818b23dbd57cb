"""One sample as the model meets it: the picture with box and crop, the words, what is supervised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from viscot_core.boxes import WHOLE, Box, Window, crop_window
from viscot_core.data.annotations import Conversation, MetadataRow, Rows
from viscot_core.data.convert import to_conversation
from viscot_core.data.encode import training_turns
from viscot_core.data.mixture import Mixture
from viscot_core.data.stats import kind_of
from viscot_core.drawing import draw_answer
from viscot_core.errors import DataError, UsageError, nearest
from viscot_core.images import open_image
from viscot_core.prompts import IMAGE, TEMPLATES, Rendered, Template, render


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample ready to look at. ``spans`` cover the prompt: (text, whether the model learns to say it)."""

    row: Conversation
    sheet: Image.Image | None
    spans: tuple[tuple[str, bool], ...]
    box: Box | None
    window: Window | None


def show(where: Path, which: str, *, images: Path | None = None, template: str = "vicuna_v1") -> Shown:
    """The sample ``which`` of ``where``: ``cub:17`` in a data root, ``17`` (row number) in a file or mixture.

    In a data root ``cub:17`` is question 17 of ``benchmark/cub.json``, else row 17 of
    ``metadata/cub_cot_train.jsonl``; ``train:17`` is row 17 of ``train.json``. Raises UsageError where there
    is no such sample, ImageError where its picture cannot be read.
    """
    if template not in TEMPLATES:
        raise UsageError(f"There is no template '{template}'.{nearest(template, TEMPLATES)}")
    row, root = _find(where, which)
    box, window, sheet = _drawn(row, images or root)
    return Shown(row, sheet, spans_of(rendered(row, TEMPLATES[template])), box, window)


def rendered(row: Conversation, template: Template) -> Rendered:
    """The row as training renders it."""
    return render(training_turns(row.turns, plain=template.plain), template)


def spans_of(prompt: Rendered) -> tuple[tuple[str, bool], ...]:
    """The prompt cut where supervision begins and ends; pictures stand as ``<image>``."""
    spans: list[tuple[str, bool]] = []
    for number, chunk in enumerate(prompt.chunks):
        if number:
            spans.append((IMAGE, False))
        at = 0
        for start, end in chunk.spoken:
            spans += [(chunk.text[at:start], False), (chunk.text[start:end], True)]
            at = end
        spans.append((chunk.text[at:], False))
    return tuple(span for span in spans if span[0])


def _drawn(row: Conversation, root: Path) -> tuple[Box | None, Window | None, Image.Image | None]:
    if not row.image:
        return None, None, None
    views = row.views()
    picture = open_image(root / views[0][0])
    box = next((box for path, box in views if box and path == views[0][0]), None)
    window = crop_window(box or WHOLE, picture.size)
    lines = tuple(f"{turn.role}: {turn.text.replace(IMAGE, '[image]')}"[:110] for turn in row.turns)
    shown = box or WHOLE
    return box, window, draw_answer(picture, shown, window, lines)


def _find(where: Path, which: str) -> tuple[Conversation, Path]:
    """The row and the folder its pictures are relative to."""
    if not where.exists():
        raise DataError(f"{where} does not exist; give a data root, a mixture or an annotation file.")
    name, colon, number = which.rpartition(":")
    if not number.isdigit():
        raise UsageError(f"'{which}' names no sample; write NAME:NUMBER, such as cub:17, or a row's number.")
    if where.is_file():
        return _row_of(where, int(number)), _root_of(where)
    if (where / "mixture.json").exists():
        return _row_of(where, int(number)), where.parent
    if not colon:
        raise UsageError(
            f"'{which}' does not say of which data set; write NAME:{which}, such as cub:{which}."
        )
    return _in_root(where, name, int(number)), where


def _in_root(root: Path, name: str, number: int) -> Conversation:
    benchmark = root / "benchmark" / f"{name}.json"
    if benchmark.exists():
        found = next((row for row in Rows(benchmark, Conversation) if str(row.id) == str(number)), None)
        if found:
            return found
    for path in (
        root / "metadata" / f"{name}_cot_train.jsonl",
        root / f"{name}.json",
        root / f"{name}.jsonl",
    ):
        if path.exists():
            return _row_of(path, number)
    if benchmark.exists():
        raise UsageError(
            f"{benchmark} has no question {number}; 'viscot bench list' and the file name its ids."
        )
    known = [
        p.stem.removesuffix("_cot_train")
        for g in ("benchmark/*", "metadata/*", "*.json")
        for p in root.glob(g)
    ]
    hint = nearest(name, known) or f" It has {', '.join(sorted(set(known))) or 'no annotation files'}."
    raise UsageError(f"{root} has no '{name}'.{hint}")


def _row_of(path: Path, number: int) -> Conversation:
    kind = None if path.is_dir() else kind_of(path)
    if kind is MetadataRow:
        facts = next((row for n, row in enumerate(Rows(path, MetadataRow)) if n == number), None)
        found = to_conversation(facts, number) if facts else None
    else:
        mixture = Mixture.open(path)
        found = mixture[number] if number < len(mixture) else None
    if found is None:
        raise UsageError(f"{path} has no row {number}; rows count from 0.")
    return found


def _root_of(file: Path) -> Path:
    """The data root an annotation file lies in."""
    inner = file.parent.name in ("benchmark", "metadata")
    return file.parent.parent if inner else file.parent
