"""The questions of a benchmark: read from a data root, joined by id, checked before any model is loaded."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscot_core.boxes.geometry import Box, Size
from viscot_core.conversation import BOX_REQUEST, IMAGE
from viscot_core.data.annotations import Conversation, DetectionRow, R, Rows, split_crop
from viscot_core.errors import DataError, UsageError
from viscot_core.tasks.image_files import REFCOCO_FOLDERS, find_image
from viscot_core.tasks.suites import REFCOCO, chosen, chosen_tasks, split_name

Kind = Literal["cot", "refcoco", "vqa"]
"""Which benchmark it is."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question. ``box`` is the annotated region in pixels of the stored image of ``size``.

    ``box_text`` quotes the benchmark file's own box words, where it has them: the reference shows those.
    """

    dataset: str
    question_id: int | str
    image: str
    path: Path
    size: Size
    question: str
    box: Box
    box_text: str | None = None
    reference: str | None = None

    @property
    def name(self) -> str:
        """``docvqa:17``: how a person names an item."""
        return f"{self.dataset}:{self.question_id}"


@dataclass(frozen=True)
class Benchmark:
    """Items ready to run; ``missing`` counts those left out for want of an image, by data set."""

    kind: Kind
    items: tuple[Item, ...]
    missing: dict[str, int]
    warnings: tuple[str, ...]
    hashes: dict[str, str]
    """Of each data set's annotation files: a run folder refuses to go on with other questions."""
    files: dict[str, str]
    """The stem of each data set's file."""

    def planned(self) -> dict[str, int]:
        """How many items each data set has, missing images included."""
        present = Counter(item.dataset for item in self.items)
        names = dict.fromkeys([*present, *self.missing])
        return {name: present[name] + self.missing.get(name, 0) for name in names}


def load_cot(
    root: Path,
    *,
    suite: str | None = None,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    skip_missing: bool = False,
    need_images: bool = True,
) -> Benchmark:
    """The Visual CoT benchmark of a data root: ``benchmark/*.json`` joined with ``benchmark_det/*.jsonl``.

    Without ``suite`` and ``tasks``: the paper's data sets, or, in a root that has none of them, all it has.
    ``limit`` draws that many questions of each data set by ``seed``; a larger limit keeps a smaller one's.

    Raises:
        UsageError: an unknown suite or task, or no benchmark there.
        DataError: damaged or duplicate rows, or images missing (unless ``skip_missing``).
    """
    found = {path.stem: path for path in sorted((root / "benchmark").glob("*.json"))}
    names = chosen_tasks(root, found, suite, tasks)
    items: list[Item] = []
    hashes: dict[str, str] = {}
    for name in names:
        items += _sample(_cot_items(root, name, found[name]), limit, seed)
        hashes[name] = _hash(found[name], _regions_file(root, name))
    files = {name: found[name].stem for name in names}
    return _checked("cot", items, hashes, files, skip_missing, need_images)


def load_refcoco(
    root: Path,
    *,
    splits: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    skip_missing: bool = False,
    need_images: bool = True,
) -> Benchmark:
    """Referring expressions of a data root, ``refcoco/REC_*.jsonl``; ``splits`` like ``refcoco+/testA``.

    Raises:
        UsageError: an unknown split, or no RefCOCO files there.
        DataError: as for ``load_cot``.
    """
    found = {split_name(path): path for path in sorted((root / "refcoco").glob("REC_*.jsonl"))}
    if not found:
        raise UsageError(
            f"{root} has no refcoco/REC_*.jsonl; give the folder of 'viscot data fetch' as --data."
        )
    order = [name for name in REFCOCO if name in found] or list(found)
    items: list[Item] = []
    hashes: dict[str, str] = {}
    for name in chosen([s.replace(":", "/") for s in splits] or order, found, "split"):
        items += _sample(_refcoco_items(root, name, found[name]), limit, seed)
        hashes[name] = _hash(found[name])
    files = {name: found[name].stem for name in hashes}
    return _checked("refcoco", items, hashes, files, skip_missing, need_images)


def _regions_file(root: Path, name: str) -> Path:
    return root / "benchmark_det" / f"{name}.jsonl"


def _cot_items(root: Path, name: str, path: Path) -> list[Item]:
    boxes = _regions_file(root, name)
    if not boxes.is_file():
        raise DataError(f"{boxes} is missing; it holds the boxes of {path.name}, fetch it again.")
    regions: dict[str, DetectionRow] = {}
    for region in Rows(boxes, DetectionRow):
        _put(regions, region.question_id, region, boxes)
    rows: dict[str, Conversation] = {}
    for row in Rows(path, Conversation):
        _put(rows, row.id, row, path)
    alone = [key for key in [*rows, *regions] if (key in rows) != (key in regions)]
    if alone:
        raise DataError(
            f"{path} and {boxes} hold different questions ({len(alone)} ids stand in one of them only, "
            f"first {alone[0]}); fetch both again."
        )
    return [_cot_item(root, name, path, row, regions[key]) for key, row in rows.items()]


def _put(table: dict[str, R], key: int | str | None, row: R, path: Path) -> None:
    if key is None:
        raise DataError(
            f"{path}: row {len(table) + 1} has no question_id; a row without one cannot be joined."
        )
    if str(key) in table:
        raise DataError(f"{path}: question_id {key} stands there twice; keep one of the rows.")
    table[str(key)] = row


def _cot_item(root: Path, name: str, path: Path, row: Conversation, region: DetectionRow) -> Item:
    assert row.id is not None
    if len(row.turns) != 4 or not row.image:
        raise DataError(f"{path}: question {row.id} is no question with an image, a box and an answer.")
    question = row.turns[0].text.removeprefix(f"{IMAGE}\n").removesuffix(f" {BOX_REQUEST}")
    image = split_crop(row.image[0])[0]
    return Item(
        dataset=name,
        question_id=row.id,
        image=image,
        path=find_image(root, image),
        size=region.size,
        question=question,
        box=region.box,
        box_text=row.turns[1].text,
        reference=row.turns[3].text,
    )


class _Expression(DetectionRow):
    """A RefCOCO row; made-up files may lack ``sent_id`` and are then known by their question_id."""

    sent_id: int | None = None


def _refcoco_items(root: Path, name: str, path: Path) -> list[Item]:
    rows: dict[str, _Expression] = {}
    for row in Rows(path, _Expression):
        _put(rows, row.question_id if row.sent_id is None else row.sent_id, row, path)
    return [
        Item(
            dataset=name,
            question_id=int(key) if key.isdecimal() else key,
            image=row.img_path,
            path=find_image(root, row.img_path, REFCOCO_FOLDERS),
            size=row.size,
            question=row.expression,
            box=row.box,
        )
        for key, row in rows.items()
    ]


def _sample(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """``limit`` items drawn by seed, in file order; the draw is nested: more keeps what less had."""
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise UsageError(f"--limit {limit} asks for nothing; give a number of questions per data set.")
    drawn = sorted(
        items, key=lambda i: hashlib.sha256(f"{seed}/{i.dataset}/{i.question_id}".encode()).digest()
    )
    kept = {str(item.question_id) for item in drawn[:limit]}
    return [item for item in items if str(item.question_id) in kept]


def _checked(
    kind: Kind,
    items: list[Item],
    hashes: dict[str, str],
    files: dict[str, str],
    skip_missing: bool,
    need_images: bool,
) -> Benchmark:
    if not need_images:
        return Benchmark(kind, tuple(items), {}, tuple(_box_warnings(items)), hashes, files)
    there: dict[Path, bool] = {}
    for item in items:
        if item.path not in there:
            there[item.path] = item.path.is_file()
    missing = [item for item in items if not there[item.path]]
    if missing and not skip_missing:
        raise DataError(_missing_message(missing, len(items)))
    present = tuple(item for item in items if there[item.path])
    if not present:
        raise DataError(f"None of the {len(items)} questions has its image; check --data.")
    counted = Counter(item.dataset for item in missing)
    return Benchmark(kind, present, dict(counted), tuple(_box_warnings(items)), hashes, files)


def _missing_message(missing: Sequence[Item], total: int) -> str:
    paths = list(dict.fromkeys(str(item.path) for item in missing))
    shown = "\n  ".join(paths[:10])
    more = f"\n  and {len(paths) - 10} more" if len(paths) > 10 else ""
    return (
        f"{len(paths)} images are missing ({len(missing)} of {total} questions need them); "
        f"fetch them ('viscot data check' says how), or leave them out with --skip-missing:\n  {shown}{more}"
    )


def _box_warnings(items: Iterable[Item]) -> list[str]:
    """Boxes that can never be found, by data set: counted, asked all the same."""
    odd: Counter[str] = Counter()
    for item in items:
        inside = item.box.clip(item.size)
        if not all(map(math.isfinite, item.box.coords)) or min(inside.width, inside.height) <= 0:
            odd[item.dataset] += 1
    return [
        f"{n} annotated boxes of {name} have no area inside the image: their IoU is 0"
        for name, n in odd.items()
    ]


def _hash(*files: Path) -> str:
    """Sixteen hex digits that change with any byte of the files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
