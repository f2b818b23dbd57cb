"""Questions made of training rows: what the model was to say is what its answer is compared with."""

from __future__ import annotations

from pathlib import Path

from viscot_core.boxes.geometry import Box, BoxStatus, Size, parse_box
from viscot_core.conversation import BOX_REQUEST, IMAGE
from viscot_core.data.annotations import Conversation, split_crop
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError
from viscot_core.images.reading import image_size
from viscot_core.paths import inside
from viscot_core.tasks.base import Item

LONGEST = 8
"""Words of an answer that can be compared with another one; a description cannot."""


def questions_of(file: Path, images: Path) -> list[tuple[Item, str]]:
    """Each row that can be asked, with its strategy: ``cot`` where it was asked for a box, else ``direct``.

    Rows of other shapes are left out, and so are those whose image cannot be read: their loss says so.
    """
    found = []
    rows = Mixture.open(file)
    for number in range(len(rows)):
        try:
            asked = _question(rows[number], number, file.stem, images)
        except DataError:
            continue
        if asked is not None:
            found.append(asked)
    return found


def _question(row: Conversation, number: int, name: str, images: Path) -> tuple[Item, str] | None:
    """The first question of a row, or None where it has none that can be measured."""
    roles = [turn.role for turn in row.turns]
    looks = BOX_REQUEST in row.turns[0].text
    seen = _shown(row) if looks else 0
    answers = seen > 0  # without an answer only the box is measured
    wanted = ["user", "assistant"] * (1 + seen)
    if not row.image or roles[: len(wanted)] != wanted or row.turns[0].text.count(IMAGE) != 1:
        return None
    reference = row.turns[len(wanted) - 1].text.strip() if answers or not looks else None
    question = row.turns[0].text.replace(IMAGE, "").replace(BOX_REQUEST, "").strip()
    if not question or (reference is not None and not 0 < len(reference.split()) <= LONGEST):
        return None
    path = split_crop(row.image[0])[0]
    place = inside(images, path)
    size = image_size(place)
    box = _box(row, max(1, seen), size) if looks else None
    item = Item(name, number, path, place, size, question, box, reference=reference)
    return item, "cot" if looks else "direct"


def _shown(row: Conversation) -> int:
    """How many crops the first question's answer comes after: every further look's turn shows one."""
    seen = min(1, len(row.turns) // 3)
    while seen and len(row.turns) > 2 * seen + 3 and IMAGE in row.turns[2 * seen + 2].text:
        seen += 1
    return seen


def _box(row: Conversation, look: int, size: Size) -> Box | None:
    """The region in pixels: of the last crop that the row shows, else of the words that it teaches."""
    if len(row.image) > look and (crop := split_crop(row.image[look])[1]) is not None:
        return crop
    parsed = parse_box(row.turns[1].text)
    return None if parsed.status is BoxStatus.UNPARSABLE else parsed.box.to_original(size)
