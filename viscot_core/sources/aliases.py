"""The different names that published files use for one image, as the catalogue lists them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from viscot_core.sources.catalog import Catalog


def spellings(path: str, catalog: Catalog) -> Iterator[str]:
    """The path, then the path under other names of its folder (``cot/v7w`` is ``cot/visual7w``)."""
    yield path
    for one, other in catalog.links.items():
        for here, there in ((one, other), (other, one)):
            if path.startswith(here + "/"):
                yield there + path[len(here) :]


def file_names(path: str, catalog: Catalog) -> Iterator[str]:
    """Names that an image's file may have elsewhere, most likely first: other endings, other prefixes."""
    pure = PurePosixPath(path)
    stems = [pure.stem]
    stems += [pure.stem.removeprefix(p) for p in catalog.prefixes if pure.stem.startswith(p)]
    stems += [p + pure.stem for p in catalog.prefixes if pure.stem.isdigit()]
    for stem in stems:
        yield stem + pure.suffix
        yield from (stem + ending for ending in catalog.endings if ending != pure.suffix.lower())


def link_folders(root: Path, catalog: Catalog) -> None:
    """Link each existing folder under its other name too, unless that path exists."""
    pairs = [*catalog.links.items(), *((meant, alias) for alias, meant in catalog.links.items())]
    for alias, meant in pairs:
        link = root / alias
        if (root / meant).is_dir() and not link.exists() and not link.is_symlink():
            up = Path(*[".."] * (len(Path(alias).parts) - 1))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(up / meant)
