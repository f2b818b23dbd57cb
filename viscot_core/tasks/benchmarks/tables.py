"""Benchmarks in one table with the images inside: TSV as VLMEvalKit writes it, parquet, JSON Lines.

Columns: ``image`` (base64, the name of a file, or bytes as Hugging Face's ``Image`` has them), ``question``,
the options as ``A`` to ``Z`` or as one list, ``answer``. Images are written once into ``images/`` beside the
table, where run folders, drawings and reports find them.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.data.formats.containers import raw_objects
from viscot_core.errors import DataError
from viscot_core.files import atomic_path
from viscot_core.paths import inside
from viscot_core.tasks.answers.reading import LETTERS
from viscot_core.tasks.benchmarks.entry import BenchmarkRow

IMAGES = "images"
_ENDINGS = (".tsv", ".parquet", ".jsonl", ".json")
_LARGEST_CELL = 2**31 - 1
_LONGEST_REASON = 200
_KINDS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"GIF8", ".gif"), (b"BM", ".bmp"))
_LABEL = re.compile(r"\s*\(?([A-Z])[).:]\s*(.*)", re.DOTALL)
_IN_IMAGE = re.compile(r"\boptions\s+in\s+the\s+image\b", re.IGNORECASE)
"""TreeBench asks to "recognize the question and options in the image" where they are printed there."""
QUESTIONS = ("question", "problem", "prompt", "query", "text")
CATEGORIES = ("category", "l2-category", "subset", "question_type")
ANSWERS = ("answer", "solution", "label", "response")
OPTION_LISTS = ("options", "multi-choice options", "choices")
IMAGE_COLUMNS = ("image", "bytes", "image_path", "images", "file_name")


def table_of(folder: Path) -> list[Path]:
    """The tables of a benchmark's folder: its TSV files, or else its parquet or JSON files, in order of name.

    Raises:
        DataError: there are none.
    """
    for ending in _ENDINGS:
        for place in (folder, folder / "data"):
            if found := sorted(path for path in place.glob(f"*{ending}")):
                return found
    raise DataError(
        f"{folder} has no table of questions ({', '.join(_ENDINGS)}); put the benchmark's file there."
    )


def read_table(folder: Path) -> Iterator[BenchmarkRow]:
    """The questions of a folder's tables.

    Raises:
        DataError: no table, or a damaged row; names file and row.
    """
    for path in table_of(folder):
        images: dict[str, Path] = {}
        for number, row in _rows(path):
            try:
                found = _entry(folder, number, row, images)
                images[found.id] = found.image
                yield found
            except (KeyError, ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
                raise DataError(
                    f"{path}: row {number + 1} is no question of a benchmark ({_short(error)}); fetch the "
                    "file again."
                ) from error


def _short(error: BaseException) -> str:
    """What is wrong, without the whole of a cell that may hold an image."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".tsv":
        # An image of 8,000 pixels is a cell of 20 million characters; csv stops at 131,072.
        csv.field_size_limit(_LARGEST_CELL)
        with path.open(encoding="utf-8-sig", newline="") as file:
            try:
                yield from enumerate(csv.DictReader(file, delimiter="\t"))
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{path} is damaged ({error}); fetch it again.") from error
        return
    for number, row in raw_objects(path):
        if isinstance(row, DataError) or not isinstance(row, Mapping):
            reason = row if isinstance(row, DataError) else "the row is no JSON object"
            raise DataError(f"{path}: row {number + 1} is no question of a benchmark ({reason}).")
        yield number, row


def _entry(folder: Path, number: int, row: Mapping[str, Any], images: Mapping[str, Path]) -> BenchmarkRow:
    if None in row:  # csv's name for what is behind the last column
        raise ValueError("it has more cells than the table has columns")
    said, asked = _given(row, ANSWERS), _given(row, QUESTIONS)
    answer = "" if said is None else str(said).strip()
    if not answer:
        raise ValueError("it has no answer")
    if asked is None:
        raise ValueError("it has no question")
    question, options = str(asked).replace("<image>", "").strip(), _options(row)
    if not options and re.fullmatch(r"\(?[A-Z]\)?\.?", answer):
        question, options = _options_of(question)
    right = _right(said, len(options)) if options else 0
    given = _given(row, ("index", "doc_id", "question_id", "id", "pid"))
    rotation = _given(row, ("cycle_category",))
    return BenchmarkRow(
        id=str(number if given is None else given),
        image=_image(folder, row, images),
        question=question,
        answer=answer,
        options=options,
        right=right,
        category=_category(row),
        boxes=_boxes(row.get("target_instances")),
        cycle=None if rotation is None else str(rotation),
        options_in_image=_IN_IMAGE.search(question) is not None,
    )


def _right(answer: Any, count: int) -> int:
    """The place of the right option, from its letter, or from its number from 0 where a table has numbers."""
    letter = str(answer).strip("(). ").upper()
    number = answer if isinstance(answer, int) else LETTERS.find(letter) if len(letter) == 1 else -1
    if isinstance(answer, bool) or not 0 <= number < count:
        raise ValueError(f"its answer {answer!r} is none of its {count} options")
    return number


def _given(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of the columns that holds something; tables write a missing cell as "", nan or None."""
    for name in names:
        value = row.get(name)
        if not (value is None or value == "" or (isinstance(value, float) and math.isnan(value))):
            return value
    return None


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The options in order, without their letters."""
    listed = _given(row, OPTION_LISTS)
    if listed is not None:
        return _unlabelled(_list(listed))
    found = [_given(row, (letter,)) for letter in LETTERS]
    count = next((place for place, value in enumerate(found) if value is None), len(found))
    behind = next((place for place in range(count, len(found)) if found[place] is not None), None)
    if behind is not None:
        raise ValueError(f"it has an option {LETTERS[behind]} and no option {LETTERS[count]}")
    return tuple(str(value).strip() for value in found[:count])


def _options_of(question: str) -> tuple[str, tuple[str, ...]]:
    """A question that holds its options (ZoomBench), without them; what stands behind them stays with it."""
    parts = _labelled(question)
    if not parts:
        return question, ()
    before = question[: question.index(parts[0])].strip()
    last, _, behind = parts[-1].partition("\n")
    options = tuple(" ".join(option.split()) for option in _unlabelled((*parts[:-1], last)))
    return "\n".join(filter(None, (before, behind.strip()))), options


def _unlabelled(options: Sequence[Any]) -> tuple[str, ...]:
    """The options without their letters, if the first one has its own: "U.S. Navy" may stand among others."""
    texts = [str(option).strip() for option in options]
    found = [_LABEL.fullmatch(text) for text in texts]
    if not (found and found[0] and found[0][1] == LETTERS[0]):
        return tuple(texts)
    return tuple(label[2].strip() if label else text for label, text in zip(found, texts, strict=True))


def _list(value: Any) -> list[Any]:
    """A list, or one as text: JSON, Python's ``repr`` (only literals are read), or one option a line."""
    if not isinstance(value, str):
        return list(value)
    if value.lstrip().startswith("["):
        try:
            read = json.loads(value)
        except ValueError:
            read = ast.literal_eval(value.strip())
        return list(read)
    return _labelled(value) or [line for line in value.splitlines() if line.strip()]


def _labelled(text: str) -> list[str]:
    """The options of a text that labels them from A on, with their labels; [] without two labels.

    What stands before A is no option (MME-RealWorld's "The choices are listed below:"). Where no line begins
    with a letter but one begins with the next, the letter's label is inside a line (one row of TreeBench).
    """
    starts: list[int] = []
    for letter, following in pairwise(LETTERS):
        after = starts[-1] + 1 if starts else 0
        found = _line_of(letter).search(text, after)
        if found is None and starts and (next_line := _line_of(following).search(text, after)):
            found = re.compile(rf"(?<=\s)\(?{letter}[).:]\s").search(text, after, next_line.start())
        if found is None:
            break
        starts.append(found.start())
    parts = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    return [part.strip() for part in parts] if len(parts) > 1 else []


def _line_of(letter: str) -> re.Pattern[str]:
    return re.compile(rf"^[^\S\n]*\(?{letter}[).:]", re.MULTILINE)


def _category(row: Mapping[str, Any]) -> str | None:
    parts = [str(value) for name in CATEGORIES if (value := _given(row, (name,)))]
    return "/".join(parts) or None


def _boxes(value: Any) -> tuple[Box, ...]:
    """TreeBench's ``target_instances``: lists of x0, y0, x1, y1 in pixels; a single one may stand alone."""
    listed = None if value in (None, "") else _list(value)
    if not listed:
        return ()
    rows = listed if isinstance(listed[0], list | tuple) else [listed]
    return tuple(Box(float(x0), float(y0), float(x1), float(y1), Frame.ORIGINAL) for x0, y0, x1, y1 in rows)


# -- images


def _image(folder: Path, row: Mapping[str, Any], images: Mapping[str, Path]) -> Path:
    """The row's image file; ``images`` are those of earlier rows, which VLMEvalKit's tables name by index."""
    value = _given(row, IMAGE_COLUMNS)
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return stored(folder, value)
    if not isinstance(value, str):
        raise ValueError("it has no image")
    text = value.strip()
    if text.startswith("["):
        text = str(_list(text)[0])
    if text in images:
        return images[text]
    if len(text) < 400 and Path(text).suffix:
        # Some tables name their images from the folder above their own (VisualProbe_Hard/NAME.jpg).
        below = inside(folder, text.partition("/")[2] or text)
        return below if below.is_file() else inside(folder, text)
    return stored(folder, _decoded(text.rpartition("base64,")[2]))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # some encoders break lines
    except binascii.Error as error:
        raise ValueError(f"its image is not base64 ({error})") from error


def stored(folder: Path, data: bytes) -> Path:
    """The file under ``images/`` that holds these bytes, written now if it is not there yet.

    Raises:
        ValueError: the bytes are no image of a known format.
    """
    ending = next((ending for begin, ending in _KINDS if data.startswith(begin)), None)
    if ending is None:
        raise ValueError("its image is of no known format")
    target = folder / IMAGES / f"{hashlib.sha256(data).hexdigest()[:24]}{ending}"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as path:
            path.write_bytes(data)
    return target
