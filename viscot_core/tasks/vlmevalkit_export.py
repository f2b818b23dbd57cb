"""A benchmark as the TSV that VLMEvalKit's custom data path reads: ``LMUData/NAME.tsv`` for ``--data NAME``.

Columns: ``index`` (a number), ``image`` (base64; a later row of that image has the index of the first, as
VLMEvalKit resolves it), ``question``, ``answer``, ``category``. With ``A`` .. it takes the file as a multiple
choice and scores it (``CustomMCQDataset``); otherwise it only answers. Where some questions are open
(ZoomBench) there are no such columns, and the others keep their options in the question.

VLMEvalKit reads the file with pandas, which guesses: the option "None" is a missing one, and "30" in a column
of numbers is asked as "30.0". A no-break space behind such a text keeps it a text.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.images.reading import color_mode, open_image
from viscot_core.policies.wording import suffix_of
from viscot_core.tasks.answers.reading import LETTERS
from viscot_core.tasks.base import Item

_MISSING = frozenset((
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
))  # fmt: skip
"""What pandas reads as a missing cell (pandas 3, ``STR_NA_VALUES``)."""
_AS_PNG = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"})
_KEEPS_TEXT = "\N{NO-BREAK SPACE}"


def write_vlmevalkit(items: Sequence[Item], out: Path) -> int:
    """Write the items; returns how many rows. Options stand in the order in which the items have them.

    Raises:
        DataError: an item without a reference answer, or an image that cannot be read.
    """
    counts = [len(item.facts.get("options", ())) for item in items]
    # One open question among them would be scored as a choice of none.
    most = max(counts, default=0) if all(counts) else 0
    texts = ["dataset", "id", "category", "question", *LETTERS[:most], "answer"]
    rows = [_row(item, choices=most > 0) for item in items]
    for column in texts:
        _keep_text(rows, column)
    first: dict[Path, int] = {}
    with atomic_write(out) as file:
        writer = csv.DictWriter(
            file,
            ["index", *texts, "image"],
            delimiter="\t",
            lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC,  # pandas takes a bare carriage return for the end of a row
        )
        writer.writeheader()
        for number, (item, row) in enumerate(zip(items, rows, strict=True)):
            seen = first.setdefault(item.path, number)
            image = _base64(item.path) if seen == number else str(seen)
            writer.writerow({"index": number, "image": image, **row})
    return len(items)


def _row(item: Item, *, choices: bool) -> dict[str, str]:
    if item.reference is None:
        raise DataError(f"{item.name} has no answer, which VLMEvalKit's table needs; leave it out.")
    options = item.facts.get("options", ())
    question = item.question
    if choices or not options:
        question = question.removesuffix(suffix_of(question))
    if choices:
        # VLMEvalKit writes the options and asks for the letter by itself.
        question = question.rpartition(f"\n{LETTERS[0]}. {options[0]}")[0]
    return {
        "dataset": item.dataset,
        "id": str(item.question_id),
        "category": item.facts.get("category") or item.dataset,
        "question": question,
        **(dict(zip(LETTERS, options, strict=False)) if choices else {}),
        "answer": item.reference[:1] if options else item.reference,
    }


def _keep_text(rows: Sequence[dict[str, str]], column: str) -> None:
    """Mark what pandas would not give back as it is; one cell that is no number keeps its whole column."""
    for row in rows:
        if row.get(column) in _MISSING:
            row[column] += _KEEPS_TEXT
    cells = [row.get(column, "") for row in rows]
    given = [number for number, cell in enumerate(cells) if cell]
    whole = len(given) == len(cells) and all(cell.isascii() and cell.isdigit() for cell in cells)
    exact = whole and all(str(int(cell)) == cell for cell in cells)
    if given and not exact and all(_is_number(cells[number]) for number in given):
        rows[given[0]][column] += _KEEPS_TEXT


def _is_number(cell: str) -> bool:
    """Whether pandas may read a number or a truth value."""
    try:
        float(cell)
    except ValueError:
        return cell.casefold() in ("true", "false")
    return True


def _base64(path: Path) -> str:
    """The image's file; in RGB where VLMEvalKit could not write it as the PNG that its models open."""
    try:
        data = path.read_bytes()
        if color_mode(path) not in _AS_PNG:
            png = io.BytesIO()
            open_image(path).save(png, "PNG")
            data = png.getvalue()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); fetch it again.") from error
    return base64.b64encode(data).decode()
