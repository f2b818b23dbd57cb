"""The catalogue of data sources: the purpose of each, its origin, its place in a data root, and its state."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from viscot_core.errors import DataError, UsageError, nearest

CATALOG = Path(__file__).with_name("sources.yaml")
STATE_FOLDER = ".viscot"
"""Folder under the data root with the lock file, a manifest per source and unfinished downloads."""

Purpose = Literal["pretrain", "finetune", "bench", "refcoco"]
State = Literal["absent", "partial", "complete"]


class CatalogModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Placing(CatalogModel):
    """Where an archive's members go, relative to its target folder."""

    keep_from: tuple[str, ...] = ()
    keep_after: tuple[str, ...] = ()
    flatten: bool = False
    only: tuple[str, ...] = ()

    def place(self, member: str) -> str | None:
        """The member's path under the target, or None if it is not wanted (``only``: file endings)."""
        path = PurePosixPath(member)
        if self.only and path.suffix.lower() not in self.only:
            return None
        parts = path.parts
        if self.flatten:
            return path.name
        wanted = self.keep_from or self.keep_after
        # The first such folder of the path; the file's own name is no folder.
        found = next((at for at, part in enumerate(parts[:-1]) if part in wanted), None)
        if found is None:
            return None if self.keep_after else str(path)
        return "/".join(parts[found + bool(self.keep_after) :])


class Download(Placing):
    """One file to fetch: of a hub data set (``hub`` + ``path``) or a plain ``url``; archives are unpacked.

    A ``path`` that is empty or ends with ``/`` is a folder of the data set: all its files come (``only``: of
    these endings).
    """

    hub: str | None = None
    path: str | None = None
    url: str | None = None
    size: int = Field(0, ge=0)
    sha256: str | None = None
    to: str
    archive: Literal["zip", "tar"] | None = None
    parts: int = Field(1, ge=1)
    each: dict[str, int] = {}
    data_set: str | None = None

    @field_validator("to")
    @classmethod
    def _inside(cls, to: str) -> str:
        path = PurePosixPath(to)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("must stay under the data root")
        return to

    @model_validator(mode="after")
    def _one_origin(self) -> Download:
        if (self.hub is None) == (self.url is None) or (self.hub is None) != (self.path is None):
            raise ValueError("give 'url', or 'hub' and 'path'")
        if self.parts > 1 and (self.archive != "tar" or "{part" not in (self.path or self.url or "")):
            raise ValueError("'parts' needs archive: tar and {part} in the path")
        if self.is_folder and self.archive:
            raise ValueError("a folder is no archive")
        return self

    @property
    def is_folder(self) -> bool:
        return self.path is not None and (not self.path or self.path.endswith("/"))

    @property
    def key(self) -> str:
        """The name of this download in the lock file and the manifest: its origin."""
        return f"{self.hub}/{self.path}" if self.hub else str(self.url)

    def expanded(self) -> Iterator[Download]:
        """One concrete download per data set of ``each``; itself where there is none."""
        if not self.each:
            yield self
        for name, size in self.each.items():
            filled = {
                key: value.replace("{set}", name) if value else value
                for key, value in (("path", self.path), ("url", self.url), ("to", self.to))
            }
            yield self.model_copy(update={**filled, "size": size, "each": {}, "data_set": name})


class DataSource(CatalogModel):
    """One entry: downloads, or a ``gate`` that says how to get it by hand; its images are in ``folder``."""

    name: str
    title: str
    purposes: tuple[Purpose, ...] = ()
    by_name: tuple[Purpose, ...] = ()
    """Purposes that want it only where its data set is named (``bench:vstar``), never as a whole."""
    license: str
    gate: str | None = None
    note: str | None = None
    sets: tuple[str, ...] = ()
    """The data sets that need a gated source; empty: every data set of its purposes."""
    folder: str | None = None
    downloads: tuple[Download, ...] = ()

    @field_validator("downloads")
    @classmethod
    def _expand(cls, downloads: tuple[Download, ...]) -> tuple[Download, ...]:
        return tuple(one for download in downloads for one in download.expanded())

    @model_validator(mode="after")
    def _reachable(self) -> DataSource:
        if bool(self.downloads) == bool(self.gate):
            raise ValueError(f"'{self.name}' needs downloads or a gate")
        return self

    @property
    def data_sets(self) -> set[str]:
        return {one.data_set for one in self.downloads if one.data_set}

    @property
    def size(self) -> int:
        """Approximate bytes to fetch; 0 for a gated source."""
        return sum(download.size for download in self.downloads)

    @property
    def places(self) -> str:
        return self.folder or ", ".join(
            dict.fromkeys(d.to.rpartition("/")[0] or d.to for d in self.downloads)
        )

    def state(self, root: Path) -> State:
        """How much of it is under ``root``, by its manifest; a gated source: whether its folder has files."""
        if self.gate:
            folder = root / (self.folder or self.name)
            return "complete" if folder.is_dir() and any(folder.iterdir()) else "absent"
        finished = manifest(root, self.name)
        here = [d.key in finished and (root / d.to).exists() for d in self.downloads]
        if all(here):
            return "complete"
        staged = (root / STATE_FOLDER / "staging" / self.name).exists()
        return "partial" if any(here) or staged else "absent"


class Catalog(CatalogModel):
    """All sources, and the different names that published files use for the same image.

    ``links``: folders with two names; ``endings``: file endings under which an image may be published;
    ``prefixes``: optional prefixes of an image's number.
    """

    links: dict[str, str] = {}
    endings: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    sources: tuple[DataSource, ...]

    def named(self, name: str) -> DataSource:
        """The source called ``name``. Raises UsageError with the nearest names if there is none."""
        found = {source.name: source for source in self.sources}
        if name not in found:
            hint = nearest(name, found) or " 'viscot data list' lists all of them."
            raise UsageError(f"There is no source called '{name}'.{hint}")
        return found[name]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A source and the requested ones of its downloads."""

    source: DataSource
    downloads: tuple[Download, ...]


@cache
def load_catalog(path: Path = CATALOG) -> Catalog:
    """The validated catalogue."""
    return Catalog.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def select(catalog: Catalog, wanted: Sequence[str]) -> list[Wanted]:
    """The downloads for ``--for``: purposes, ``all``, source names, or ``bench:docvqa,gqa`` (data sets).

    Raises UsageError for a purpose, data set or source that does not exist.
    """
    chosen: dict[str, set[str]] = {}
    for word in wanted:
        purpose, colon, names = word.partition(":")
        if colon:
            found, sets = _of_data_sets(catalog, purpose, names)
        else:
            found, sets = [source for name in word.split(",") for source in _for(catalog, name)], set()
        for source in found:
            picked = {d.key for d in source.downloads if not sets or d.data_set in (None, *sets)}
            chosen.setdefault(source.name, set()).update(picked)
    return [
        Wanted(s, tuple(d for d in s.downloads if d.key in chosen[s.name]))
        for s in catalog.sources
        if s.name in chosen
    ]


def single(catalog: Catalog, wanted: Sequence[Wanted]) -> list[DataSource]:
    """The sources with the images of only the wanted data sets; empty if one of these has no such source.

    The tar with the images of all sets cannot be fetched in part.
    """
    folders = {f"cot/{d.data_set}" for w in wanted for d in w.downloads if d.data_set}
    found = [source for source in catalog.sources if source.folder in folders and source.downloads]
    return found if len(found) == len(folders) else []


def _for(catalog: Catalog, word: str) -> list[DataSource]:
    """The sources of a purpose, of ``all``, or the one with that name."""
    if word in (*get_args(Purpose), "all"):
        return [source for source in catalog.sources if word == "all" or word in source.purposes]
    names = [source.name for source in catalog.sources]
    if word not in names:
        purposes = (*get_args(Purpose), "all")
        hint = nearest(word, (*purposes, *names)) or f" Purposes are {', '.join(purposes)}."
        raise UsageError(
            f"There is no purpose or source called '{word}'.{hint} 'viscot data list' lists the sources."
        )
    return [source for source in catalog.sources if source.name == word]


def _of_data_sets(catalog: Catalog, purpose: str, names: str) -> tuple[list[DataSource], set[str]]:
    """The sources that hold the named data sets of a purpose, and these names."""
    whole = _for(catalog, purpose)
    alone = [source for source in catalog.sources if purpose in source.by_name and source not in whole]
    sets = _data_sets([*whole, *alone], names)
    found = [source for source in alone if sets & source.data_sets]
    # What all data sets of a purpose share (the images) is for those that are no sources of their own.
    if any(sets & source.data_sets for source in whole):
        found += [source for source in whole if not source.sets or sets & set(source.sets)]
    return found, sets


def _data_sets(sources: Sequence[DataSource], names: str) -> set[str]:
    known = {name for source in sources for name in source.data_sets}
    asked = {name.strip() for name in names.split(",") if name.strip()}
    for name in sorted(asked - known):
        hint = nearest(name, known) or f" Their data sets are: {', '.join(sorted(known)) or 'none'}."
        raise UsageError(f"There is no data set '{name}' in these sources.{hint}")
    return asked


def holders(catalog: Catalog, folder: str) -> list[str]:
    """The sources whose images are in ``folder`` of the data root or in a folder above it."""
    path = PurePosixPath(folder)
    above = {str(path), *map(str, path.parents)} - {"."}
    return [source.name for source in catalog.sources if source.folder in above]


def manifest(root: Path, name: str) -> dict[str, dict[str, object]]:
    """Finished downloads of a source by key: sha256 and size, number and size of unpacked files."""
    return read_record(root / STATE_FOLDER / f"{name}.json")


def read_record(path: Path) -> dict[str, Any]:
    """The object in one of viscot's own JSON files; empty where there is none. DataError if it is damaged."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it and run the command again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged (it holds no object); remove it and run the command again.")
    return found
