"""Fetches sources into a data root: several downloads at once, each recorded when it is complete.

``ROOT/.viscot`` contains ``staging/SOURCE/`` (unfinished downloads), ``SOURCE.json`` (the source's manifest,
one entry per finished download) and ``lock.json`` (the sha256 of every file ever fetched here, to detect a
change at its origin). A complete file is never fetched again; a kill loses only what was in memory.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeVar

import httpx

from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.lines import try_lock
from viscot_core.paths import inside
from viscot_core.sources.aliases import link_folders
from viscot_core.sources.archives import Damaged, Unpacker, UnpackLimits, free_bytes, unpack
from viscot_core.sources.catalog import STATE_FOLDER, Catalog, DataSource, Download, manifest, read_record
from viscot_core.sources.hub import files_under, locate
from viscot_core.sources.kinds import fault_of, most_bytes
from viscot_core.sources.plan import DownloadJob, FetchPlan, short_name, staging_of
from viscot_core.sources.remote import Lost, Remote, another_file
from viscot_core.sources.splittar import part_path, unpack_parts
from viscot_core.sources.transfer import Fetched, Patience, Stopped, at_hand, download, finished, new_client

log = logging.getLogger(__name__)

T = TypeVar("T")
Report = Callable[[str, int, int | None], None]
"""Called with a download's label, the bytes done and the bytes in all, from several threads."""


@dataclass(slots=True)
class FetchOutcome:
    """The result of a fetch: labels of finished downloads, and by label why others failed."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def fetch(
    root: Path,
    todo: FetchPlan,
    catalog: Catalog,
    *,
    at_once: int = 4,
    relock: Sequence[str] = (),
    report: Report = lambda label, done, of: None,
    patience: Patience | None = None,
    limits: UnpackLimits | None = None,
) -> FetchOutcome:
    """Carry out a plan. One failed download does not stop the others; Ctrl-C keeps what was downloaded.

    Of the sources in ``relock`` the recorded hashes are forgotten: what the origin has today is accepted.

    Raises DataError before the first byte if the disk has too little free space.
    """
    free, needed = free_bytes(root), todo.disk(at_once)
    if needed > free:
        raise DataError(
            f"{root} needs about {needed / 1e9:.1f} GB of free disk for this and has {free / 1e9:.1f} GB; "
            "free some, fetch less with --for, or use another --data."
        )
    outcome = FetchOutcome()
    with _alone(root), new_client() as client:
        _sweep(root, catalog)
        _forget(root, [catalog.named(name) for name in relock])
        fetcher = _Fetcher(root, client, report, patience or Patience(), limits or UnpackLimits())
        with ThreadPoolExecutor(at_once) as pool:
            running: dict[Future[None], DownloadJob] = {
                pool.submit(fetcher.run, job): job for job in todo.jobs
            }
            try:
                for job, error in _as_they_end(running):
                    if error is None:
                        outcome.done.append(job.label)
                    else:
                        # Of whatever kind: what one server sends must not end the other downloads.
                        known = isinstance(error, (DataError, OSError))
                        log.debug("%s", job.label, exc_info=error)
                        outcome.failed[job.label] = (
                            str(error) if known else f"{type(error).__name__}: {error}"
                        )
            # The threads see ``stop`` at their next block and keep the bytes they have.
            except KeyboardInterrupt:
                fetcher.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    link_folders(root, catalog)
    return outcome


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Allow one fetch at a time into a data root. Raises DataError if another is running."""
    path = root / STATE_FOLDER / "fetching"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not try_lock(file):
            raise DataError(f"another fetch into {root} is running; wait for it or stop it.")
        yield


def _sweep(root: Path, catalog: Catalog) -> None:
    """Remove the remains that a kill left of finished downloads."""
    for source in catalog.sources:
        here = manifest(root, source.name)
        for one in source.downloads:
            if one.key in here and (root / one.to).exists():
                _clear(root, source, one)


def _forget(root: Path, sources: Sequence[DataSource]) -> None:
    """Remove the recorded hashes of the sources' files, and what was fetched of them under these hashes."""
    downloads = [one for source in sources for one in source.downloads]
    keys = {
        one.key.format(part=n) if one.parts > 1 else one.key for one in downloads for n in range(one.parts)
    }
    locked = read_record(root / STATE_FOLDER / "lock.json")
    if keys & locked.keys():
        _write_json(root / STATE_FOLDER / "lock.json", {k: v for k, v in locked.items() if k not in keys})
    for source in sources:
        for one in source.downloads:
            _clear(root, source, one)


def _clear(root: Path, source: DataSource, one: Download) -> None:
    """Remove a download's staging folder, and the folders above it if they are empty."""
    staging = staging_of(root, source, one)
    shutil.rmtree(staging, ignore_errors=True)
    for folder in (staging.parent, staging.parent.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _as_they_end(running: dict[Future[None], DownloadJob]) -> Iterator[tuple[DownloadJob, Exception | None]]:
    waiting = set(running)
    while waiting:
        ended, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in ended:
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield running[future], error


class _Fetcher:
    """Runs single downloads; shared by the threads of one fetch."""

    def __init__(
        self, root: Path, client: httpx.Client, report: Report, patience: Patience, limits: UnpackLimits
    ) -> None:
        self.root, self.client, self.report = root, client, report
        self.patience, self.limits = patience, limits
        self.stop = Event()
        self._writing = Lock()

    def run(self, job: DownloadJob) -> None:
        """Continue one download until its files are in place, record it and clean its staging folder."""
        if self.stop.is_set():
            raise Stopped
        one = job.download
        staging = staging_of(self.root, job.source, one)
        staging.mkdir(parents=True, exist_ok=True)
        try:
            if one.is_folder:
                record = self._folder(job, staging)
            elif one.parts > 1:
                record = self._parts(job, staging)
            elif one.archive:
                record = self._archive(job, staging)
            else:
                record = self._file(job, staging)
        except Damaged as error:  # often an HTML page that a server sent instead of a 404
            shutil.rmtree(staging)
            raise DataError(
                f"{one.key}: {error}; the download is deleted, run the command again or fetch it by hand."
            ) from error
        self._record(job, record)

    def _file(self, job: DownloadJob, staging: Path, report: Report | None = None) -> dict[str, Any]:
        staging.mkdir(parents=True, exist_ok=True)
        target = self.root / job.download.to
        come = finished(staging / "file")
        # After a kill between the rename and the record, the file is in place and its note still says so.
        if not (come and target.is_file() and target.stat().st_size == come.size):
            come = self._download(job, job.download.key, staging / "file", report=report)
            if fault := fault_of(staging / "file", job.download):
                raise Damaged(fault)
            target.parent.mkdir(parents=True, exist_ok=True)
            (staging / "file").replace(target)
        self._lock({job.download.key: come})
        return {"bytes": come.size, "sha256": come.sha256}

    def _folder(self, job: DownloadJob, staging: Path) -> dict[str, Any]:
        """Every file of a folder of the hub, one after another; those that are here already stay."""
        one, done = job.download, 0
        assert one.hub is not None and one.path is not None
        repo, folder = one.hub, one.path
        names = [name for name in self._of_hub(lambda: files_under(repo, folder), one.key) if one.place(name)]
        if not names:
            raise DataError(f"{one.key} holds no file any more; get the source by hand from the hub.")
        for name in names:
            if self.stop.is_set():
                raise Stopped
            to = f"{one.to}/{name.removeprefix(folder)}"
            file = one.model_copy(update={"path": name, "to": to, "only": ()})
            part = replace(job, download=file)
            target = inside(self.root, to)
            if not (file.key in self._locked() and target.is_file()):
                self._file(part, staging / short_name(file), report=lambda *_: None)
            done += target.stat().st_size
            self.report(job.label, done, None)
        self.report(job.label, done, done)
        return {"bytes": done, "files": len(names)}

    def _archive(self, job: DownloadJob, staging: Path) -> dict[str, Any]:
        one = job.download
        come = self._download(job, one.key, staging / "archive")
        label, into = f"{job.label} (unpacking)", self.root / one.to
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self.report(label, done, None)

        assert one.archive
        unpacked = unpack(
            staging / "archive",
            one.archive,
            into,
            one,
            name=short_name(one),
            limits=self.limits,
            stop=self.stop,
            progress=progress,
        )
        self._lock({one.key: come})  # only after unpacking: a damaged archive is never locked
        return {
            "bytes": come.size,
            "sha256": come.sha256,
            "files": unpacked.files,
            "unpacked": unpacked.total,
        }

    def _parts(self, job: DownloadJob, staging: Path) -> dict[str, Any]:
        one = job.download

        def bring(number: int, path: Path) -> None:
            self._download(job, one.key.format(part=number), path, number)

        unpacker = Unpacker(self.root / one.to, one, self.limits.of(one.size), short_name(one), self.stop)
        unpack_parts(staging, one.parts, bring, unpacker)
        come = {one.key.format(part=n): finished(part_path(staging, n)) for n in range(one.parts)}
        self._lock({key: part for key, part in come.items() if part})
        return {"parts": one.parts}

    def _download(
        self, job: DownloadJob, key: str, to: Path, part: int = 0, report: Report | None = None
    ) -> Fetched:
        one, report = job.download, report or self.report
        label = f"{job.label} part {part + 1} of {one.parts}" if one.parts > 1 else job.label
        # What is on disk already needs no address, and so no network.
        remote = Remote(key) if at_hand(to) else replace(self._remote(one, part), most=most_bytes(one))
        # The catalogue's hash, else the one of the first fetch here: both count before what the origin says
        # today.
        now, before = remote.sha256, one.sha256 or self._locked().get(key)
        wanted = replace(remote, sha256=before or now)
        if now and now != wanted.sha256:
            raise another_file(wanted, now)  # the hub reports the hash: nothing has to be downloaded
        return download(
            wanted,
            to,
            self.client,
            stop=self.stop,
            progress=lambda here, of: report(label, here, of),
            patience=self.patience,
        )

    def _remote(self, one: Download, part: int) -> Remote:
        if one.hub and one.path:
            return self._located(one.hub, one.path.format(part=part) if one.parts > 1 else one.path)
        url = str(one.url)
        return Remote(url.format(part=part) if one.parts > 1 else url)

    def _located(self, repo: str, path: str) -> Remote:
        """The hub's address of a file."""
        return self._of_hub(lambda: locate(repo, path), f"{repo}/{path}")

    def _of_hub(self, ask: Callable[[], T], what: str) -> T:
        """What the hub answers; asked again while it cannot be reached."""
        for failures in range(1, self.patience.attempts):
            try:
                return ask()
            except Lost:
                if self.stop.wait(self.patience.wait(failures)):
                    raise Stopped from None
        try:
            return ask()
        except Lost as error:
            raise DataError(
                f"{what} cannot be located at the moment ({error}); run the command again."
            ) from error

    def _locked(self) -> dict[str, str]:
        return read_record(self.root / STATE_FOLDER / "lock.json")

    def _lock(self, come: Mapping[str, Fetched]) -> None:
        """Record the sha256 of fetched files, by key."""
        with self._writing:
            # Read, add and write again, under the lock: downloads end in several threads and share this file.
            before = self._locked()
            after = before | {key: one.sha256 for key, one in come.items()}
            if after != before:
                _write_json(self.root / STATE_FOLDER / "lock.json", after)

    def _record(self, job: DownloadJob, record: dict[str, Any]) -> None:
        with self._writing:
            done = {**manifest(self.root, job.source.name), job.download.key: record}
            # The record first: a kill before the clean-up leaves remains, which ``_sweep`` removes.
            _write_json(self.root / STATE_FOLDER / f"{job.source.name}.json", done)
            _clear(self.root, job.source, job.download)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        json.dump(dict(sorted(value.items())), file, indent=1)
