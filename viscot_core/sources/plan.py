"""Plans a fetch: which downloads are missing, their size, and how much disk space they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from viscot_core.sources.catalog import STATE_FOLDER, DataSource, Download, Wanted, manifest
from viscot_core.sources.splittar import next_part


@dataclass(frozen=True, slots=True)
class DownloadJob:
    """One missing download; ``left``: approximate bytes not fetched yet."""

    source: DataSource
    download: Download
    left: int

    @property
    def label(self) -> str:
        """A unique label: the source's name, plus the file's name if the source has several files."""
        if len(self.source.downloads) == 1:
            return self.source.name
        one = self.download
        path = PurePosixPath((one.key if one.archive else one.to).partition("?")[0])
        return f"{self.source.name}/{path.name}"


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a fetch will do: ``jobs``, sources already ``complete``, and sources to get ``by_hand``."""

    jobs: tuple[DownloadJob, ...]
    complete: tuple[DataSource, ...]
    by_hand: tuple[DataSource, ...]

    @property
    def to_fetch(self) -> int:
        """Approximate bytes to fetch."""
        return sum(job.left for job in self.jobs)

    def disk(self, at_once: int) -> int:
        """Maximum disk space in bytes: the files that stay, and the archives or parts unpacked at one time.

        Images are compressed, so an archive is assumed to unpack to its own size.
        """
        stays, passing = 0, []
        for one, left in ((job.download, job.left) for job in self.jobs):
            # A whole archive lies beside what it unpacks to; of a split one only a part; a plain file is what
            # stays.
            whole = one.archive and one.parts == 1
            stays += one.size if whole else left
            passing.append(left if whole else left // one.parts if one.archive else 0)
        # Archives are deleted once unpacked, so the largest ``at_once`` are the most that lie there together.
        return stays + sum(sorted(passing)[-at_once:])


def plan(root: Path, wanted: Sequence[Wanted], *, again: Sequence[str] = ()) -> FetchPlan:
    """The plan for what is missing of ``wanted`` under ``root``; of sources in ``again`` all is missing."""
    jobs: list[DownloadJob] = []
    complete: list[DataSource] = []
    by_hand: list[DataSource] = []
    for source, downloads in ((w.source, w.downloads) for w in wanted):
        if source.gate:
            (complete if source.state(root) == "complete" else by_hand).append(source)
            continue
        here = manifest(root, source.name)
        missing = [
            d for d in downloads if source.name in again or d.key not in here or not (root / d.to).exists()
        ]
        jobs += [DownloadJob(source, one, _left(root, source, one)) for one in missing]
        if not missing:
            complete.append(source)
    return FetchPlan(tuple(jobs), tuple(complete), tuple(by_hand))


def _left(root: Path, source: DataSource, one: Download) -> int:
    """Approximate bytes of a download that are not on this disk yet."""
    staging = staging_of(root, source, one)
    read = one.size * next_part(staging) // one.parts if one.parts > 1 else 0
    staged = sum(path.stat().st_size for path in staging.glob("*") if path.is_file())
    return max(0, one.size - read - staged)


def staging_of(root: Path, source: DataSource, one: Download) -> Path:
    """The folder of an unfinished download."""
    return root / STATE_FOLDER / "staging" / source.name / short_name(one)


def short_name(one: Download) -> str:
    """A short name of a download, valid on any file system and the same in every run."""
    return sha256(one.key.encode()).hexdigest()[:12]
