"""Referring expressions: the box of what a sentence describes (RefCOCO, RefCOCO+, RefCOCOg; Table 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from viscot_core.boxes.formats import Codec
from viscot_core.data.annotations import DetectionRow, Rows
from viscot_core.errors import UsageError
from viscot_core.policies.base import Answer
from viscot_core.policies.locate import Locate
from viscot_core.policies.wording import protocol_of
from viscot_core.tasks.base import (
    MAX_NEW_TOKENS,
    Benchmark,
    Facts,
    Item,
    Settings,
    Strategy,
    box_facts,
    wording_of,
)
from viscot_core.tasks.image_files import find_image
from viscot_core.tasks.loading import Selection, digest_of, put
from viscot_core.tasks.suites import REFCOCO, chosen, split_name

REFCOCO_STRATEGY = "refcoco"
"""The only strategy, and the name that its records have."""

_LOCATE = Strategy(
    REFCOCO_STRATEGY,
    "the box of what a sentence describes",
    lambda settings: Locate(wording_of(settings)),
    asks_for_box=True,
)


@dataclass(frozen=True)
class RefCoco:
    """Expressions of a data root; ``splits`` like ``refcoco+/testA``, or all that are there.

    Raises:
        UsageError: an unknown protocol.
    """

    kind: ClassVar[str] = "refcoco"
    all_strategies: ClassVar[Mapping[str, Strategy]] = {REFCOCO_STRATEGY: _LOCATE}

    data: Path
    splits: tuple[str, ...] = ()
    select: Selection = field(default_factory=Selection)
    max_new_tokens: int = MAX_NEW_TOKENS
    strategies: tuple[str, ...] = (REFCOCO_STRATEGY,)
    protocol: str = "paper"

    def __post_init__(self) -> None:
        protocol_of(self.protocol)

    def load(self) -> Benchmark:
        """As ``load_refcoco``."""
        return load_refcoco(self.data, splits=self.splits, select=self.select)

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        """Everything that changes an answer and is known before a model is loaded."""
        return {
            "protocol": self.protocol,
            "box_format": codec.name if codec else None,
            "seed": self.select.seed,
            "max_new_tokens": self.max_new_tokens,
        }

    @staticmethod
    def metrics(item: Item, answer: Answer, settings: Settings) -> Facts:
        """The box and its IoU; there is no answer beside it."""
        return box_facts(item, answer, settings)


class _Expression(DetectionRow):
    """A RefCOCO row; made-up files may lack ``sent_id``: their ``question_id`` names the row."""

    sent_id: int | None = None


def load_refcoco(root: Path, *, splits: Sequence[str] = (), select: Selection | None = None) -> Benchmark:
    """Referring expressions of a data root, ``refcoco/REC_*.jsonl``.

    Raises:
        UsageError: an unknown split, or no RefCOCO files there.
        DataError: damaged or duplicate rows, or images missing (unless they may be left out).
    """
    select = select or Selection()
    found = {split_name(path): path for path in sorted((root / "refcoco").glob("REC_*.jsonl"))}
    if not found:
        raise UsageError(
            f"{root} has no refcoco/REC_*.jsonl; give the folder of 'viscot data fetch' as --data."
        )
    order = [name for name in REFCOCO if name in found] or list(found)
    items: list[Item] = []
    hashes: dict[str, str] = {}
    for name in chosen([s.replace(":", "/") for s in splits] or order, found, "split"):
        items += select.sample(_items(root, name, found[name]))
        hashes[name] = digest_of(found[name])
    return select.benchmark(items, hashes, {name: found[name].stem for name in hashes})


def _items(root: Path, name: str, path: Path) -> list[Item]:
    rows: dict[str, _Expression] = {}
    for row in Rows(path, _Expression):
        put(rows, row.question_id if row.sent_id is None else row.sent_id, row, path)
    return [
        Item(
            dataset=name,
            question_id=int(key) if key.isdecimal() else key,
            image=row.img_path,
            path=find_image(root, row.img_path),
            size=row.size,
            question=row.expression,
            box=row.box,
        )
        for key, row in rows.items()
    ]
