"""Links files that were downloaded by hand to the paths that the annotations of a data root name.

A file is found by its name: the exact name, another image ending, or with and without a prefix, as the
catalogue lists them. Of several files with one name the one whose folders agree best is taken, then the one
with the annotated size; if that does not decide, nothing is linked and the path is reported as ambiguous.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

from viscot_core.boxes.geometry import Size
from viscot_core.errors import DataError, ImageError, UsageError
from viscot_core.files import place_file, sha256_of
from viscot_core.images.reading import image_size
from viscot_core.paths import inside
from viscot_core.sources.aliases import file_names, link_folders
from viscot_core.sources.annotated import AnnotationFile, annotation_files, images_of, locate_image, rows_of
from viscot_core.sources.catalog import STATE_FOLDER, Catalog


class Link(StrEnum):
    """How a file is placed."""

    AUTO = "auto"
    """A hard link if the disk allows it, else a symlink."""
    HARD = "hard"
    SYMLINK = "symlink"
    COPY = "copy"


_WAYS: dict[Link, tuple[Callable[[Path, Path], object], ...]] = {
    Link.AUTO: (os.link, os.symlink),
    Link.HARD: (os.link,),
    Link.SYMLINK: (os.symlink,),
    Link.COPY: (shutil.copyfile,),
}


@dataclass(slots=True)
class Organized:
    """What happened to the missing files: paths under the data root."""

    placed: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)
    ambiguous: dict[str, list[Path]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    """Paths that lead outside of the data root; nothing is placed there."""


def organize(
    hand: Path,
    root: Path,
    catalog: Catalog,
    *,
    groups: Sequence[str] = (),
    link: Link = Link.AUTO,
    progress: Callable[[int], None] = lambda count: None,
) -> Organized:
    """Place files found anywhere under ``hand`` at the paths that the annotations under ``root`` name.

    Missing annotation files are placed first, by the catalogue's names; a folder with two names gets both.
    Existing files are never touched. Raises UsageError if ``hand`` is not a folder or there are no annotation
    files.
    """
    if not hand.is_dir():
        raise UsageError(f"{hand} is not a folder; pass the folder of your downloads as --from.")
    store = _index(hand)
    done = Organized()
    link_folders(root, catalog)
    for place in _missing_annotations(root, catalog):
        _place(
            root, place, store.get(PurePosixPath(place).name.lower(), []), None, link, done, found_only=True
        )
    for path, size in _missing_images(root, catalog, groups):
        found = [file for name in file_names(path, catalog) for file in store.get(name.lower(), [])]
        _place(root, path, found, size, link, done)
        progress(1)
    link_folders(root, catalog)
    return done


def _index(folder: Path) -> dict[str, list[Path]]:
    """Every file under ``folder`` by its lower-case name."""
    store: dict[str, list[Path]] = defaultdict(list)
    for base, _, names in os.walk(folder):
        for name in sorted(names):
            store[name.lower()].append(Path(base) / name)
    return store


def _missing_annotations(root: Path, catalog: Catalog) -> Iterator[str]:
    for source in catalog.sources:
        for one in source.downloads:
            if not one.archive and not (root / one.to).exists():
                yield one.to


def _missing_images(root: Path, catalog: Catalog, groups: Sequence[str]) -> Iterator[tuple[str, Size | None]]:
    seen: set[str] = set()
    for file in annotation_files(root, groups):
        for row in rows_of(file, skip_bad=1 << 60):
            try:
                images = list(images_of(row))
            except DataError:  # the crop is not a box: 'data check' reports it
                continue
            for named in images:
                if named.path not in seen and _lacks(root, named.path, file, catalog):
                    yield named.path, named.size
                seen.add(named.path)


def _lacks(root: Path, path: str, file: AnnotationFile, catalog: Catalog) -> bool:
    try:
        return locate_image(root, path, file, catalog) is None
    except DataError:
        return True  # outside of the root: ``_place`` refuses and reports it


def _place(
    root: Path,
    path: str,
    found: list[Path],
    size: Size | None,
    link: Link,
    done: Organized,
    *,
    found_only: bool = False,
) -> None:
    """Link the best of ``found`` to ``path`` and record it in ``done``."""
    if (place := _place_of(root, path)) is None:
        done.outside.append(path)
        return
    if not found:
        if not found_only:
            done.not_found.append(path)
        return
    best = _best(path, found, size)
    if len(best) > 1:
        done.ambiguous[path] = best
        return
    place_file(best[0].resolve(), place, *_WAYS[link])
    done.placed.append(path)


def _place_of(root: Path, path: str) -> Path | None:
    """Where the file belongs; None outside of the data root and among viscot's own records."""
    try:
        place = inside(root, path)
    except DataError:
        return None
    return None if place.relative_to(root).parts[:1] == (STATE_FOLDER,) else place


def _best(path: str, found: list[Path], size: Size | None) -> list[Path]:
    """The files that fit best; several if they differ and nothing decides between them."""
    folders = PurePosixPath(path).parts[:-1]

    def agreement(file: Path) -> int:
        theirs = file.parts[:-1]
        count = 0
        while count < min(len(folders), len(theirs)) and folders[-1 - count] == theirs[-1 - count]:
            count += 1
        return count

    # Folders that agree with the wanted path, counted from the file upwards.
    most = max(map(agreement, found))
    best = [file for file in found if agreement(file) == most]
    if len(best) > 1 and size:
        best = [file for file in best if _size_of(file) == size] or best
    # The same bytes in several folders: any of them will do.
    if len(best) > 1 and len({sha256_of(file) for file in best}) == 1:
        return best[:1]
    return best


def _size_of(file: Path) -> Size | None:
    try:
        return image_size(file)
    except ImageError:
        return None
