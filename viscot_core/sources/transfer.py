"""Downloads one URL to one file: resumed after interruptions, hashed while it streams, renamed at the end.

``FILE.part`` beside ``FILE`` has the bytes so far and ``FILE.note`` says which file they belong to. After a
kill the next call continues from these two.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import httpx

from viscot_core.addresses import http_client
from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.openai_api.waiting import retry_after
from viscot_core.sources.remote import (
    BUSY,
    Lost,
    Remote,
    advice,
    another_file,
    check_kind,
    has_an_end,
    length_of,
    too_large,
    validator_of,
)

TIMEOUT = httpx.Timeout(30.0, connect=20.0)
"""A connection is dead after this many seconds without a byte."""
_BLOCK = 1 << 20
Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the size of the file, if known."""


class Stopped(Exception):
    """The user asked to stop; fetched bytes are kept."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete file: its size in bytes and its sha256."""

    size: int
    sha256: str


@dataclass(slots=True)
class Patience:
    """How often a download without progress is tried, or one that progresses, and the waits (seconds)."""

    attempts: int = 8
    most_attempts: int = 1000
    first_wait: float = 0.5
    longest_wait: float = 60.0

    def wait(self, failures: int) -> float:
        return min(self.longest_wait, self.first_wait * 2 ** (failures - 1)) * random.uniform(0.75, 1.25)


def new_client() -> httpx.Client:
    """The HTTP client of all downloads: follows redirects and detects dead connections."""
    return http_client(follow_redirects=True, timeout=TIMEOUT, headers={"User-Agent": "viscot"})


def finished(to: Path) -> Fetched | None:
    """The finished download of ``to``, even after the file was moved away; None while it is unfinished."""
    note = _read_note(to)
    return Fetched(note["size"], note["sha256"]) if {"done", "size", "sha256"} <= note.keys() else None


def at_hand(to: Path) -> Fetched | None:
    """``finished``, if the file has been neither moved nor deleted since."""
    return finished(to) if to.exists() or _part(to).exists() else None


def download(
    remote: Remote,
    to: Path,
    client: httpx.Client,
    *,
    stop: Event | None = None,
    progress: Progress = lambda here, of: None,
    patience: Patience | None = None,
) -> Fetched:
    """Fetch ``remote`` to ``to``, continuing an earlier call.

    Raises DataError if the server refuses, the content is not what it should be, or several attempts in a
    row bring nothing; Stopped when ``stop`` is set.
    """
    done = at_hand(to)
    if done and not to.exists():
        _part(to).replace(to)  # killed between the note and the rename
    if done:
        return done
    to.parent.mkdir(parents=True, exist_ok=True)
    return _Transfer(remote, to, client, stop or Event(), progress, patience or Patience()).run()


class _Transfer:
    def __init__(
        self,
        remote: Remote,
        to: Path,
        client: httpx.Client,
        stop: Event,
        progress: Progress,
        patience: Patience,
    ) -> None:
        self.remote, self.to, self.client, self.stop = remote, to, client, stop
        self.progress, self.patience = progress, patience
        self.part = _part(to)
        self.digest = hashlib.sha256()
        self.have = 0
        self.restarts = 0  # how often fetched bytes were thrown away
        self.total = remote.size
        self.validator: str | None = None
        self._take_up()

    def run(self) -> Fetched:
        failures, wrong, furthest = 0, 0, self.have
        for attempt in count(1):
            try:
                self._attempt()
                if self._is_right():
                    break
                # Once the bytes on disk may be at fault, so all of them are fetched anew; twice it is another
                # file.
                wrong += 1
                found = self.digest.hexdigest()
                self._start_over()
                if wrong > 1:
                    raise another_file(self.remote, found)
            except (httpx.RequestError, Lost) as error:
                # Failures in a row. Only bytes beyond the furthest point so far start the count again, and
                # not for ever: a server that always starts anew brings the same bytes without end.
                failures = 1 if self.have > furthest else failures + 1
                furthest = max(furthest, self.have)
                tries = max(failures, self.restarts)
                if tries >= self.patience.attempts or attempt >= self.patience.most_attempts:
                    raise DataError(
                        f"{self.remote.url} could not be fetched ({str(error) or type(error).__name__}); "
                        f"the {self.have:,} bytes so far are kept, run the command again to continue."
                    ) from error
                asked = error.wait if isinstance(error, Lost) else 0.0
                if self.stop.wait(min(max(asked, self.patience.wait(failures)), self.patience.longest_wait)):
                    raise Stopped from None
        self.part.touch()  # an empty file of known size was never asked for
        fetched = Fetched(self.have, self.digest.hexdigest())
        self._note(done=True, size=fetched.size, sha256=fetched.sha256)
        self.part.replace(self.to)
        return fetched

    def _take_up(self) -> None:
        """Continue from the bytes on disk if they certainly belong to this file."""
        note = _read_note(self.to)
        self.validator = note.get("validator")
        # Without a validator, and with a URL whose bytes may change, a range could continue another file.
        usable = note.get("url") == self.remote.url and (self.validator or self.remote.pinned)
        if not usable or not self.part.exists():
            self._start_over()
            return
        with self.part.open("rb") as file:
            # A hash's state cannot be stored: what is there is hashed again.
            while block := file.read(_BLOCK):
                self.digest.update(block)
                self.have += len(block)

    def _start_over(self) -> None:
        self.part.unlink(missing_ok=True)
        self.restarts += self.have > 0
        self.digest, self.have, self.validator, self.total = hashlib.sha256(), 0, None, self.remote.size

    def _attempt(self) -> None:
        """Request the missing bytes and write them; returns when the server has sent all it announced."""
        # A range that starts at the file's end would be answered with 416.
        if self.total is not None and self.have == self.total:
            return
        # Ranges, sizes and hashes are of the stored bytes; a compressed answer would count others.
        headers = {**self.remote.headers, "Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if self.validator:
                # Of a file that has changed since, the server then sends all of it (200) instead of the range
                # (RFC 9110, 13.1.5).
                headers["If-Range"] = self.validator
        with self.client.stream("GET", self.remote.url, headers=headers) as response:
            self._accept(response)
            most = self.remote.most if self.total is None else self.total
            with self.part.open("ab") as file:
                for block in response.iter_raw():  # unbuffered: a dropped connection loses nothing
                    if self.stop.is_set():
                        raise Stopped
                    file.write(block)
                    self.digest.update(block)
                    self.have += len(block)
                    self.progress(self.have, self.total)
                    if most is not None and self.have > most:
                        break
        if self.total is None and most is not None and self.have > most:
            self._start_over()
            raise too_large(self.remote)
        if self.total is not None and self.have != self.total:
            longer = self.have > self.total
            here, total = self.have, self.total
            if longer:
                self._start_over()
            raise Lost(f"the server sent {here:,} of {total:,} bytes")

    def _accept(self, response: httpx.Response) -> None:
        """Check the response's headers and from which byte it continues."""
        code = response.status_code
        if code in BUSY:
            raise Lost(f"the server answered {code}", retry_after(response.headers.get("Retry-After")) or 0.0)
        if code == 416:
            self._start_over()
            raise Lost("the server has fewer bytes than were fetched")
        if code not in (200, 206):
            raise DataError(f"{self.remote.url} answered {code} {response.reason_phrase}; {advice(code)}.")
        check_kind(self.remote, response)
        start, total = self._range_of(response) if code == 206 else (0, length_of(response))
        if self.remote.size is not None and total not in (None, self.remote.size):
            self._start_over()
            raise Lost(f"the server announces {total:,} bytes, the file has {self.remote.size:,}")
        if total is not None and self.remote.most is not None and total > self.remote.most:
            raise too_large(self.remote)
        if total is None and not has_an_end(response, self.remote):
            raise DataError(
                f"{self.remote.url} comes without its length, so a cut would go unnoticed; fetch it by hand "
                "and use 'viscot data organize'."
            )
        # 200 to a range request is the whole file from byte 0: it has changed, or the server knows no ranges.
        # That is taken as it comes; a range from elsewhere cannot be used.
        if start != self.have or (self.have and self.total not in (None, total)):
            self._start_over()
            if start:
                raise Lost("the server sent another range than requested")
        if not self.have:
            self.part.unlink(missing_ok=True)
            self.validator = validator_of(response)
            self._note(url=self.remote.url, validator=self.validator)
        self.total = total if total is not None else self.remote.size

    def _range_of(self, response: httpx.Response) -> tuple[int, int]:
        """First byte and total size of a 206 response; raises Lost if it is not a part of this very file."""
        named = response.headers.get("Content-Range", "").strip()
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", named, re.ASCII)
        total = int(match[2]) if match and match[2] != "*" else self.total
        if match is None or total is None:
            self._start_over()
            raise Lost("the server sent a part of the file without saying which")
        validators = {response.headers.get("ETag"), response.headers.get("Last-Modified")} - {None}
        # Without either header the part is taken on the server's word: ``If-Range`` asked for this version.
        if self.have and self.validator and validators and self.validator not in validators:
            self._start_over()
            raise Lost("the file changed at its origin meanwhile")
        return int(match[1]), total

    def _is_right(self) -> bool:
        return self.remote.sha256 in (None, self.digest.hexdigest())

    def _note(self, **facts: object) -> None:
        with atomic_write(_note(self.to)) as file:
            json.dump(facts, file)


def _part(to: Path) -> Path:
    return to.with_name(to.name + ".part")


def _note(to: Path) -> Path:
    return to.with_name(to.name + ".note")


def _read_note(to: Path) -> dict[str, Any]:
    try:
        found = json.loads(_note(to).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
