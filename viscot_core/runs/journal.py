"""The writing end of a run folder: finished items are appended at once, and settings never mix.

Lines are appended and flushed as items finish, so a kill loses at most the batch in flight; a line cut short
by a kill is set aside and its item asked again. One process writes at a time. Settings that change an answer
may never change within a folder; the questions (strategies, data sets, limit) may become more, and a strategy
brings the settings that stand under its name.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from viscot_core.errors import UsageError
from viscot_core.files import atomic_write
from viscot_core.lines import set_broken_line_aside, try_lock
from viscot_core.runs.records import (
    PARTS,
    PREDICTIONS_FILE,
    RUN_FILE,
    SERVER,
    Key,
    Planned,
    Prediction,
    RunInfo,
    read_predictions,
    read_run,
)

LOCK_FILE = ".lock"
BROKEN_FILE = "predictions.broken"
OPEN_PARTS = "pending.*.json"
"""Why the ranks of a sharded run left items open, one each, until they are joined."""
_DYING = 2.0
"""Seconds that the ranks of a killed run may take to let go of its folder."""


class Journal:
    """The writing end of a run folder; use as a context manager.

    With a ``session`` it is one rank of several that write at the same time: each into a file of its own,
    which the next writer without one joins into ``predictions.jsonl``.

    Raises on entering:
        UsageError: another process is writing to the folder.
        DataError: a file of the folder is damaged.
    """

    def __init__(self, folder: Path | str, *, rank: int = 0, session: str | None = None) -> None:
        self.folder = Path(folder)
        self.rank, self.session = rank, session
        self.finished: dict[Key, Prediction] = {}
        self.left_open: Counter[str] = Counter()
        """Why ranks left items open since the last writer without a session."""
        self.info: RunInfo | None = None
        self._file: IO[bytes] | None = None
        self._locks: list[IO[bytes]] = []
        self._made: list[Path] = []
        """Folders that were not there before, the innermost first."""

    def __enter__(self) -> Journal:
        whole = self.folder.absolute()
        self._made = [folder for folder in (whole, *whole.parents) if not folder.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be a run folder ({error.strerror}); choose another --out."
            ) from error
        # A writer alone has the folder's lock for itself. Ranks share it, and each takes one of its own,
        # against a second process with the same rank.
        self._locks.append(_take_lock(self.folder, shared=self.session is not None))
        if self.session is not None:
            self._locks.append(_take_lock(self.folder, name=f"{LOCK_FILE}.{self.rank}"))
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        path = self.folder / PREDICTIONS_FILE
        if (self.folder / RUN_FILE).exists():
            self.info = read_run(self.folder)
        elif path.exists() and path.stat().st_size:
            raise UsageError(f"{self.folder} has predictions but no {RUN_FILE}; choose a new --out.")
        if self.session is None:
            # Only a writer alone repairs and joins: no rank is writing beside it.
            set_broken_line_aside(path, self.folder / BROKEN_FILE)
            self._join_parts()
        self.reload()

    def reload(self) -> None:
        """Read again what all writers have finished by now."""
        if any(self.folder.glob("predictions*.jsonl")):
            self.finished = {p.key: p for p in read_predictions(self.folder)}

    def _join_parts(self) -> None:
        """Move what ranks wrote into the one file; after a kill in between, a line twice reads as one."""
        for part in sorted(self.folder.glob(PARTS)):
            set_broken_line_aside(part, self.folder / BROKEN_FILE)
            with (self.folder / PREDICTIONS_FILE).open("ab") as whole:
                whole.write(part.read_bytes())
                whole.flush()
                # On the disk before the part goes: then these lines are nowhere else.
                os.fsync(whole.fileno())
            part.unlink()
        self.left_open = self._open_of(OPEN_PARTS)
        for part in self.folder.glob(OPEN_PARTS):
            part.unlink()

    def share_open(self, reasons: Mapping[str, int]) -> Counter[str]:
        """Tell the other ranks why this one left items open; what all of them have told by now."""
        if reasons:
            with atomic_write(self.folder / f"pending.{self.session}-{self.rank}.json") as file:
                json.dump(dict(reasons), file)
        return self._open_of(f"pending.{self.session}-*.json")

    def _open_of(self, parts: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for part in self.folder.glob(parts):
            found.update(json.loads(part.read_bytes()))
        return found

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release the locks; a new folder in which nothing was started is removed."""
        if self._made and self.info is None and self.session is None:
            with suppress(OSError):
                (self.folder / LOCK_FILE).unlink()
                for folder in self._made:
                    folder.rmdir()
        for handle in (self._file, *self._locks):
            if handle is not None:
                handle.close()
        self._file, self._locks = None, []

    def check(self, info: RunInfo) -> None:
        """Refuse what differs from the settings of the folder, as far as ``info`` names them already."""
        if self.info is not None:
            known = {name: value for name, value in self.info.settings.items() if name in info.settings}
            refuse_changes(self.info.model_copy(update={"settings": known}), info, self.folder)

    def begin(self, info: RunInfo) -> RunInfo:
        """Start the run or continue it; returns the run's info, joined with what was planned before.

        Raises:
            UsageError: a setting differs from the one the folder was started with; the message shows both.
        """
        if self.info is not None:
            refuse_changes(self.info, info, self.folder)
            # What was missing before and is asked for now counts afresh: its images may have been fetched
            # since.
            asked = {name for sets in info.planned.values() for name in sets}
            # A server's version is told with its replies, and none may be left to ask for.
            said = {name: self.info.environment[name] for name in (SERVER,) if name in self.info.environment}
            missing = {**self.info.missing, **dict.fromkeys(asked, 0), **info.missing}
            own = {name: value for name, value in self.info.settings.items() if name in self.info.planned}
            info = info.model_copy(
                update={
                    "settings": {**own, **info.settings},
                    "planned": _union(self.info.planned, info.planned),
                    "hashes": {**self.info.hashes, **info.hashes},
                    "missing": {name: n for name, n in missing.items() if n},
                    "created": self.info.created,
                    "environment": {**said, **info.environment},
                    "seconds": self.info.seconds,
                    "figures": {**self.info.figures, **info.figures},
                }
            )
        return self.save(info)

    def save(self, info: RunInfo) -> RunInfo:
        """Write ``run.json``."""
        self.info = info
        info.save(self.folder)
        return info

    def is_done(self, key: Key) -> bool:
        """Whether the item needs no more work; a failed one is tried again by the next run."""
        found = self.finished.get(key)
        return found is not None and found.done

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Append finished items and flush them to the file before returning."""
        batch = list(predictions)
        if not batch:
            return
        if self._file is None:
            name = f"predictions.{self.session}-{self.rank}.jsonl" if self.session else PREDICTIONS_FILE
            self._file = (self.folder / name).open("ab")
        self._file.write(b"".join(p.to_line() for p in batch))
        self._file.flush()
        self.finished.update((p.key, p) for p in batch)


def _take_lock(folder: Path, *, shared: bool = False, name: str = LOCK_FILE) -> IO[bytes]:
    handle = (folder / name).open("ab")
    deadline = time.monotonic() + _DYING
    while not try_lock(handle, shared=shared):
        if time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        handle.close()
        raise UsageError(f"Another process is writing to {folder}; wait for it, or choose another --out.")
    return handle


def at_its_address(engine: dict[str, Any], before: RunInfo) -> dict[str, Any]:
    """The engine's identity with the address that the folder has on record; all else must be equal."""
    recorded = before.settings.get("engine", {})
    return {**engine, "url": recorded["url"]} if "url" in engine and "url" in recorded else engine


def refuse_changes(
    old: RunInfo,
    new: RunInfo,
    folder: Path,
    advice: str = "give its own to continue, or choose a new --out",
) -> None:
    """Raise UsageError showing every setting in which ``new`` differs from the one that ``folder`` has."""
    # What stands under a strategy's name is of that strategy alone: one of the two may not have it.
    alone = old.planned.keys() ^ new.planned.keys()
    before, after = (
        _flat({"kind": info.kind, **{name: v for name, v in info.settings.items() if name not in alone}})
        for info in (old, new)
    )
    # Once on record of every server, whose template nobody can know.
    if before.get("engine.engine") == "api" and before.get("engine.template") == "vicuna_v1":
        before["engine.template"] = "server"
    for name in old.hashes.keys() & new.hashes.keys():
        before[f"data of {name}"], after[f"data of {name}"] = old.hashes[name], new.hashes[name]
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    if changed:
        shown = "; ".join(f"{name}: {before.get(name)!r} -> {after.get(name)!r}" for name in changed)
        hint = " If it is the same server, add --same-engine." if changed == ["engine.url"] else ""
        raise UsageError(f"{folder} has other settings ({shown}); {advice}.{hint}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, lists and tuples alike (JSON knows no tuples)."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = (
                list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            )
    return flat


def _union(old: Planned, new: Planned) -> Planned:
    """What was ever asked of this folder: the larger count of each strategy and data set."""
    joined = {strategy: dict(sets) for strategy, sets in old.items()}
    for strategy, sets in new.items():
        mine = joined.setdefault(strategy, {})
        for name, count in sets.items():
            mine[name] = max(count, mine.get(name, 0))
    return joined
