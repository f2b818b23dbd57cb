"""The catalogue of data sources: what each is for, where it comes from, where it goes, what is here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from viscot_core.errors import UsageError, nearest

CATALOG = Path(__file__).with_name("sources.yaml")
STATE_FOLDER = ".viscot"
"""Under the data root: the lock file, one manifest per source, and what is on its way."""

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
        """The member's path under the target, or None where it is not wanted (``only``: file endings)."""
        path = PurePosixPath(member)
        if self.only and path.suffix.lower() not in self.only:
            return None
        parts = path.parts
        if self.flatten:
            return path.name
        wanted = self.keep_from or self.keep_after
        found = next((at for at, part in enumerate(parts[:-1]) if part in wanted), None)
        if found is None:
            return None if self.keep_after else str(path)
        return "/".join(parts[found + bool(self.keep_after) :])


class Download(Placing):
    """One file to fetch: of a hub data set (``hub`` + ``path``) or a plain ``url``; archives are unpacked."""

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
        return self

    @property
    def key(self) -> str:
        """What names this download in lock file and manifest: its origin."""
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
    """One entry: downloads, or a ``gate`` that says how to get it by hand; ``folder`` holds its images."""

    name: str
    title: str
    purposes: tuple[Purpose, ...] = ()
    license: str
    gate: str | None = None
    note: str | None = None
    sets: tuple[str, ...] = ()
    """The data sets that need a gated source; none: all of its purposes'."""
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
    def size(self) -> int:
        """Bytes to fetch, about; 0 for a gated source."""
        return sum(download.size for download in self.downloads)

    @property
    def places(self) -> str:
        return self.folder or ", ".join(
            dict.fromkeys(d.to.rpartition("/")[0] or d.to for d in self.downloads)
        )

    def state(self, root: Path) -> State:
        """What of it is under ``root``, by its manifest; a gated one by whether its folder holds anything."""
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
    """All sources, and what published files call by different names.

    ``links``: one folder by two names; ``endings``: an image's under any of which it may come; ``prefixes``:
    what may stand in front of an image's number or not.
    """

    links: dict[str, str] = {}
    endings: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    sources: tuple[DataSource, ...]

    def named(self, name: str) -> DataSource:
        """Raises UsageError, with the nearest names, where there is no such source."""
        found = {source.name: source for source in self.sources}
        if name not in found:
            hint = nearest(name, found) or " 'viscot data list' names them all."
            raise UsageError(f"There is no source called '{name}'.{hint}")
        return found[name]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A source and those of its downloads that were asked for."""

    source: DataSource
    downloads: tuple[Download, ...]


@cache
def load_catalog(path: Path = CATALOG) -> Catalog:
    """The validated catalogue."""
    return Catalog.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def select(catalog: Catalog, wanted: Sequence[str]) -> list[Wanted]:
    """What ``--for`` asks for: purposes, ``all`` or source names, or ``bench:docvqa,gqa`` (data sets of it).

    Raises UsageError for a purpose, data set or source that does not exist.
    """
    chosen: dict[str, set[str]] = {}
    for word in wanted:
        purpose, colon, names = word.partition(":")
        if colon:
            found = _for(catalog, purpose)
            sets = _data_sets(found, names)
            found = [source for source in found if not source.sets or sets & set(source.sets)]
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
    """The sources that hold the images of just the wanted data sets; empty where one of these has none.

    The tar of all sets' images cannot be fetched in part.
    """
    folders = {f"cot/{d.data_set}" for w in wanted for d in w.downloads if d.data_set}
    found = [source for source in catalog.sources if source.folder in folders and source.downloads]
    return found if len(found) == len(folders) else []


def _for(catalog: Catalog, word: str) -> list[DataSource]:
    """The sources of a purpose, of ``all``, or the one of that name."""
    if word in (*get_args(Purpose), "all"):
        return [source for source in catalog.sources if word == "all" or word in source.purposes]
    names = [source.name for source in catalog.sources]
    if word not in names:
        purposes = (*get_args(Purpose), "all")
        hint = nearest(word, (*purposes, *names)) or f" Purposes are {', '.join(purposes)}."
        raise UsageError(
            f"There is no purpose or source called '{word}'.{hint} 'viscot data list' names the sources."
        )
    return [source for source in catalog.sources if source.name == word]


def _data_sets(sources: Sequence[DataSource], names: str) -> set[str]:
    known = {d.data_set for source in sources for d in source.downloads if d.data_set}
    asked = {name.strip() for name in names.split(",") if name.strip()}
    for name in sorted(asked - known):
        hint = nearest(name, known) or f" They are {', '.join(sorted(known))}."
        raise UsageError(f"There is no data set '{name}' there.{hint}")
    return asked


def holders(catalog: Catalog, folder: str) -> list[str]:
    """The sources whose images lie in ``folder`` of the data root or above it."""
    path = PurePosixPath(folder)
    above = {str(path), *map(str, path.parents)} - {"."}
    return [source.name for source in catalog.sources if source.folder in above]


def manifest(root: Path, name: str) -> dict[str, dict[str, object]]:
    """Finished downloads of a source by key: sha256 and bytes of the file, files and bytes unpacked."""
    path = root / STATE_FOLDER / f"{name}.json"
    found: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.exists() else {}
    return found
