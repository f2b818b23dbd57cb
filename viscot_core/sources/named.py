"""Which pictures the annotation files of a data root name: their paths are the truth, not a tree on paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscot_core.boxes import Box, Size
from viscot_core.data.annotations import Conversation, DetectionRow, MetadataRow, RefcocoRow, Row, Rows
from viscot_core.data.convert import picture_path
from viscot_core.data.rows import first_byte
from viscot_core.errors import UsageError, nearest
from viscot_core.sources.catalog import Catalog

PRETRAIN_FILES = ("blip_laion_cc_sbu_558k.json", "pretrain.json")
REFCOCO_FOLDER = "coco/train2014"
_GROUPS = ("bench", "refcoco", "metadata", "pretrain", "finetune")


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """One annotation file of a data root; ``group`` is the purpose it serves."""

    path: Path
    kind: type[Row]
    group: str


@dataclass(frozen=True, slots=True)
class Named:
    """A picture as a row names it: path under the root, size where the row tells it, region in pixels."""

    path: str
    size: Size | None
    box: Box | None


def annotation_files(root: Path, groups: Sequence[str] = ()) -> list[AnnotationFile]:
    """The annotation files under ``root``, or those of ``groups`` (``bench``, ``bench:gqa``, ``finetune``).

    Raises UsageError for a group that does not exist, or where nothing is found.
    """
    found = [
        *(AnnotationFile(p, Conversation, "bench") for p in sorted(root.glob("benchmark/*.json"))),
        *(AnnotationFile(p, DetectionRow, "bench") for p in sorted(root.glob("benchmark_det/*.jsonl"))),
        *(AnnotationFile(p, RefcocoRow, "refcoco") for p in sorted(root.glob("refcoco/*.jsonl"))),
        *(AnnotationFile(p, MetadataRow, "metadata") for p in sorted(root.glob("metadata/*.jsonl"))),
        *(_training(p) for p in sorted(root.glob("*.json")) if first_byte(p) == b"["),
    ]
    chosen = [file for file in found if not groups or any(_belongs(file, group) for group in groups)]
    if not chosen:
        raise UsageError(
            f"{root} has no annotation files{' for that' if groups else ''}; "
            "'viscot data fetch' brings them and 'viscot data synth' makes some."
        )
    return chosen


def _training(path: Path) -> AnnotationFile:
    return AnnotationFile(path, Conversation, "pretrain" if path.name in PRETRAIN_FILES else "finetune")


def _belongs(file: AnnotationFile, wanted: str) -> bool:
    group, colon, names = wanted.partition(":")
    if group not in (*_GROUPS, "all"):
        hint = nearest(group, _GROUPS) or f" They are {', '.join(_GROUPS)}, all."
        raise UsageError(f"There is no purpose '{group}'.{hint}")
    return group in (file.group, "all") and (not colon or file.path.stem in names.split(","))


def pictures_of(row: Row) -> Iterator[Named]:
    """Every picture a row names. Raises DataError where a crop's suffix is no box."""
    if isinstance(row, Conversation):
        for path, box in row.views():
            yield Named(path, None, box)
    elif isinstance(row, MetadataRow):
        yield Named(picture_path(row), row.size, row.box)
    elif isinstance(row, DetectionRow):
        path = row.img_path
        if isinstance(row, RefcocoRow) and "/" not in path:
            path = f"{REFCOCO_FOLDER}/{path}"
        yield Named(path, row.size, row.box)


def spellings(path: str, catalog: Catalog) -> Iterator[str]:
    """The path, and the same under the other names of its folder (``cot/v7w`` is ``cot/visual7w``)."""
    yield path
    for one, other in catalog.links.items():
        for here, there in ((one, other), (other, one)):
            if path.startswith(here + "/"):
                yield there + path[len(here) :]


def rows_of(file: AnnotationFile, skip_bad: int) -> Rows[Row]:
    """The typed rows of an annotation file."""
    return Rows(file.path, file.kind, skip_bad)
