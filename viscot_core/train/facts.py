"""How many rows the training files hold and how long they are: counted where present, else as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from viscot_core.data.mixture import Mixture

CHARACTERS_PER_TOKEN = 3.6  # Llama's tokenizer on English with boxes
LOOKED_AT = 500  # rows read for the mean length


@dataclass(frozen=True, slots=True)
class Facts:
    """Rows of an epoch (sources by their weights), mean tokens of text and mean images of a row; None where
    unknown."""

    rows: int | None
    text_tokens: float | None
    images: float | None
    source: str


PUBLISHED = {
    # LLaVA-1.5's stage 1: short captions, one image each.
    "blip_laion_cc_sbu_558k.json": Facts(558_128, 20.0, 1.0, "published (LLaVA-Pretrain)"),
    # README: 665 K + 1.4 M + 373 K. Lengths are estimates; CoT rows show two images, 40 K rows none.
    "viscot_mixed_2m.json": Facts(2_438_000, 200.0, 1.14, "published (README: 665 K + 1.4 M + 373 K)"),
    "viscot_363k.json": Facts(363_000, 150.0, 2.0, "published (README)"),
}


def facts_of(root: Path, files: Sequence[str]) -> Facts:
    """The sum over ``files`` under ``root``; unknown as soon as one of them is absent and unpublished."""
    found = [_facts(root / name) for name in files]
    if any(one.rows is None for one in found):
        return Facts(None, None, None, "unknown (a file is absent)")
    rows = sum(one.rows or 0 for one in found)
    sources = " + ".join(dict.fromkeys(one.source for one in found))

    def mean(values: list[tuple[int, float | None]]) -> float | None:
        known = [(n, value) for n, value in values if value is not None]
        return sum(n * value for n, value in known) / rows if rows and len(known) == len(values) else None

    text = mean([(one.rows or 0, one.text_tokens) for one in found])
    return Facts(rows, text, mean([(one.rows or 0, one.images) for one in found]), sources)


def _facts(path: Path) -> Facts:
    if not path.exists():
        return PUBLISHED.get(path.name, Facts(None, None, None, "unknown (the file is absent)"))
    rows = Mixture.open(path)
    step = max(1, len(rows) // LOOKED_AT)
    looked = [rows[index] for index in range(0, len(rows), step)]
    text = sum(len(turn.text) for row in looked for turn in row.turns) / CHARACTERS_PER_TOKEN
    images = sum(len(row.image) for row in looked)
    return Facts(len(rows.epoch()), text / len(looked), images / len(looked), "counted")
