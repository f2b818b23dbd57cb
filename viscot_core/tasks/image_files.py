"""Where the images of annotated rows lie under a data root."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from viscot_core.paths import inside
from viscot_core.sources.catalog import load_catalog

FOLDERS = ("", "coco/train2014/", "coco/", "train2014/")
"""Where an image may lie: as the row says, or, since RefCOCO's rows give a bare name, in COCO's folder."""


def find_image(root: Path, image: str) -> Path:
    """Where the image lies under the root: the first place that exists, else the place the row names.

    Raises:
        DataError: the row names a place outside of the root.
    """
    for folder in FOLDERS:
        for name in _spellings(image):
            if (path := inside(root, folder + name)).is_file():
                return path
    return inside(root, image)


def _spellings(image: str) -> Iterator[str]:
    """The path as it is, then under each other name that the catalogue has for its folder."""
    yield image
    for name, other in _folder_names():
        if image.startswith(name):
            yield other + image.removeprefix(name)


@cache
def _folder_names() -> tuple[tuple[str, str], ...]:
    """The catalogue's linked folders, both ways: published files disagree about which name to use."""
    links = load_catalog().links.items()
    return tuple((f"{a}/", f"{b}/") for pair in links for a, b in (pair, pair[::-1]))
