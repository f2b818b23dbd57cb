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
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx

from viscot_core.errors import DataError
from viscot_core.files import atomic_write
from viscot_core.openai_api.waiting import retry_after

TIMEOUT = httpx.Timeout(30.0, connect=20.0)
"""A connection is dead after this many seconds without a byte."""
_BLOCK = 1 << 20
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Status codes after which another attempt may succeed."""
Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the size of the file, if known."""


class Stopped(Exception):
    """The user asked to stop; fetched bytes are kept."""


class Lost(Exception):
    """An attempt failed, but another may succeed; ``wait``: seconds the server asked to wait."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to fetch. ``pinned``: the URL always has the same bytes, so a range needs no ``If-Range``."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete file: its size in bytes and its sha256."""

    size: int
    sha256: str


@dataclass(slots=True)
class Patience:
    """How often a download without progress is tried, and the wait between attempts (seconds)."""

    attempts: int = 8
    first_wait: float = 0.5
    longest_wait: float = 60.0

    def wait(self, failures: int) -> float:
        return min(self.longest_wait, self.first_wait * 2 ** (failures - 1)) * random.uniform(0.75, 1.25)


def new_client() -> httpx.Client:
    """The HTTP client of all downloads: follows redirects and detects dead connections."""
    return httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers={"User-Agent": "viscot"})


def finished(to: Path) -> Fetched | None:
    """The finished download of ``to``, even after the file was moved away; None while it is unfinished."""
    note = _read_note(to)
    return Fetched(note["size"], note["sha256"]) if note.get("done") else None


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
        self.total = remote.size
        self.validator: str | None = None
        self._take_up()

    def run(self) -> Fetched:
        failures, wrong = 0, 0
        while True:
            before = self.have
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
                # Failures in a row: an attempt that brought bytes starts the count again.
                failures = 1 if self.have > before else failures + 1
                if failures >= self.patience.attempts:
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
            with self.part.open("ab") as file:
                for block in response.iter_raw():  # unbuffered: a dropped connection loses nothing
                    if self.stop.is_set():
                        raise Stopped
                    file.write(block)
                    self.digest.update(block)
                    self.have += len(block)
                    self.progress(self.have, self.total)
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
            raise DataError(f"{self.remote.url} answered {code} {response.reason_phrase}; {_advice(code)}.")
        start, total = _range_of(response) if code == 206 else (0, _length_of(response))
        if self.remote.size is not None and total not in (None, self.remote.size):
            self._start_over()
            raise Lost(f"the server announces {total:,} bytes, the file has {self.remote.size:,}")
        # 200 to a range request is the whole file from byte 0: it has changed, or the server knows no ranges.
        # That is taken as it comes; a range from elsewhere cannot be used.
        if start != self.have or (self.have and self.total not in (None, total)):
            self._start_over()
            if start:
                raise Lost("the server sent another range than requested")
        if not self.have:
            self.part.unlink(missing_ok=True)
            self.validator = _validator_of(response)
            self._note(url=self.remote.url, validator=self.validator)
        self.total = total if total is not None else self.remote.size

    def _is_right(self) -> bool:
        return self.remote.sha256 in (None, self.digest.hexdigest())

    def _note(self, **facts: object) -> None:
        with atomic_write(_note(self.to)) as file:
            json.dump(facts, file)


def another_file(wanted: Remote, found: str) -> DataError:
    """The error for content whose sha256 is not that of ``wanted``."""
    return DataError(
        f"{wanted.url} is not the expected file: its sha256 is {found}, not {wanted.sha256}; if it was "
        "changed on purpose, remove its entry from .viscot/lock.json and fetch it again."
    )


def _part(to: Path) -> Path:
    return to.with_name(to.name + ".part")


def _note(to: Path) -> Path:
    return to.with_name(to.name + ".note")


def _read_note(to: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_note(to).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _length_of(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _range_of(response: httpx.Response) -> tuple[int, int | None]:
    """First byte and total size of a 206 response."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not match:
        return 0, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _validator_of(response: httpx.Response) -> str | None:
    """A strong ETag, or the date of the last change: the valid values of ``If-Range``."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _advice(code: int) -> str:
    if code in (401, 403):
        return "it needs a login: get access as the source describes, or fetch it by hand"
    if code in (404, 410):
        return "it has moved: look for a newer viscot, or fetch it by hand and use 'viscot data organize'"
    return "try again later, or fetch it by hand and use 'viscot data organize'"
