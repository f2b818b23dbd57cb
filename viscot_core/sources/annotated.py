"""The images that the annotation files of a data root name; their paths define the layout of the root."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscot_core.boxes.geometry import Box, Size
from viscot_core.data.annotations import Conversation, DetectionRow, MetadataRow, RefcocoRow, Row, Rows
from viscot_core.data.convert import image_path
from viscot_core.data.rows import first_byte
from viscot_core.data.stats import kind_of
from viscot_core.errors import DataError, UsageError, nearest
from viscot_core.paths import inside
from viscot_core.sources.aliases import spellings
from viscot_core.sources.catalog import Catalog

PRETRAIN_FILES = ("blip_laion_cc_sbu_558k.json", "pretrain.json")
REASONING_FOLDER = "cot_with_detailed_reasoning_steps"
_GROUPS = ("bench", "refcoco", "metadata", "pretrain", "finetune")


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """One annotation file of a data root; ``group`` is its purpose."""

    path: Path
    kind: type[Row]
    group: str


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image of a row: path under the root, size if the row has one, region in pixels."""

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
        *(
            AnnotationFile(p, MetadataRow, "metadata")
            for p in sorted(root.glob(f"{REASONING_FOLDER}/*.jsonl"))
        ),
        *(_training(p) for p in sorted(root.glob("*.json")) if first_byte(p) == b"["),
        *(_training(p) for p in sorted(root.glob("*.jsonl")) if _holds_conversations(p)),
    ]
    wanted = [_known(word) for group in groups for word in ([group] if ":" in group else group.split(","))]
    chosen = [file for file in found if not wanted or any(_belongs(file, word) for word in wanted)]
    if not chosen:
        raise UsageError(
            f"{root} has no annotation files{' for that' if groups else ''}; "
            "get them with 'viscot data fetch' or make some with 'viscot data synth'."
        )
    return chosen


def _training(path: Path) -> AnnotationFile:
    return AnnotationFile(path, Conversation, "pretrain" if path.name in PRETRAIN_FILES else "finetune")


def _holds_conversations(path: Path) -> bool:
    """Whether the rows are conversations: a data root has other JSONL files too, such as a check's report."""
    try:
        return kind_of(path) is Conversation
    except DataError:
        return False


def _known(wanted: str) -> str:
    group = wanted.partition(":")[0]
    if group not in (*_GROUPS, "all"):
        hint = nearest(group, _GROUPS) or f" They are {', '.join(_GROUPS)}, all."
        raise UsageError(f"There is no purpose '{group}'.{hint}")
    return wanted


def _belongs(file: AnnotationFile, wanted: str) -> bool:
    group, colon, names = wanted.partition(":")
    name = file.path.stem.removesuffix("_cot_train").removeprefix("REC_")
    return group in (file.group, "all") and (not colon or name in names.split(","))


def images_of(row: Row) -> Iterator[AnnotatedImage]:
    """Every image a row names. Raises DataError if a crop's suffix is not a box."""
    if isinstance(row, Conversation):
        for path, box in row.views():
            yield AnnotatedImage(path, None, box)
    elif isinstance(row, MetadataRow):
        yield AnnotatedImage(image_path(row), row.size, row.box)
    elif isinstance(row, DetectionRow):
        yield AnnotatedImage(row.image, row.size, row.box)


def locate_image(root: Path, path: str, file: AnnotationFile, catalog: Catalog) -> Path | None:
    """The existing file of the image ``path`` of ``file``; None if it is missing.

    The benchmark accepts either name of a folder; training needs exactly the path of the row. Raises
    DataError if the path leads outside of the root.
    """
    names = spellings(path, catalog) if file.group == "bench" else (path,)
    return next((place for name in names if (place := inside(root, name)).is_file()), None)


def rows_of(file: AnnotationFile, skip_bad: int) -> Rows[Row]:
    """The typed rows of an annotation file."""
    return Rows(file.path, file.kind, skip_bad)
