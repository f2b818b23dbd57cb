"""A benchmark as the TSV that VLMEvalKit's custom data path reads: ``LMUData/NAME.tsv`` for ``--data NAME``.

Columns: ``index`` (a number), ``image`` (base64; a later row of that image has the index of the first, as
VLMEvalKit resolves it), ``question``, ``answer``, ``category``. With ``A`` .. it takes the file as a multiple
choice and scores it (``CustomMCQDataset``); otherwise it only answers. Where some questions are open
(ZoomBench) there are no such columns, and the others keep their options in the question.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from pathlib import Path

from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.policies.wording import suffix_of
from viscot_core.tasks.answers.reading import LETTERS
from viscot_core.tasks.base import Item


def write_vlmevalkit(items: Sequence[Item], out: Path) -> int:
    """Write the items; returns how many rows. Options stand in the order in which the items have them.

    Raises:
        DataError: an item without a reference answer, or an image that cannot be read.
    """
    counts = [len(item.facts.get("options", ())) for item in items]
    # One open question among them would be scored as a choice of none.
    most = max(counts, default=0) if all(counts) else 0
    columns = ["index", "dataset", "id", "category", "question", *LETTERS[:most], "answer", "image"]
    first: dict[Path, int] = {}
    with atomic_write(out) as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for number, item in enumerate(items):
            if item.reference is None:
                raise DataError(f"{item.name} has no answer, which VLMEvalKit's table needs; leave it out.")
            row = _row(item, choices=most > 0)
            seen = first.setdefault(item.path, number)
            image = _base64(item.path) if seen == number else str(seen)
            writer.writerow({"index": number, "image": image, **row})
    return len(items)


def _row(item: Item, *, choices: bool) -> dict[str, object]:
    options = item.facts.get("options", ())
    answer = str(item.reference)[:1] if options else item.reference
    question = item.question
    if choices or not options:
        question = question.removesuffix(suffix_of(question))
    if choices:
        # VLMEvalKit writes the options and asks for the letter by itself.
        question = question.rpartition(f"\n{LETTERS[0]}. {options[0]}")[0]
    return {
        "dataset": item.dataset,
        "id": item.question_id,
        "category": item.facts.get("category") or item.dataset,
        "question": question,
        **(dict(zip(LETTERS, options, strict=False)) if choices else {}),
        "answer": answer,
    }


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); fetch it again.") from error
