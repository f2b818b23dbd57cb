"""The images of all open pages: kept as the files that came, within a limit over all visitors."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from viscot_core.boxes.geometry import Size


@dataclass(frozen=True, slots=True)
class Kept:
    """An image that was put into the store: its name there, and its width and height as it is seen."""

    token: str
    size: Size


class ImageStore:
    """Files by token, at most ``limit`` bytes together: the ones used longest ago are dropped for new ones.

    Files and not pixels: of 150 kB a decoder can make 120 MB. Safe in threads.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes of all files together."""
        with self._lock:
            return sum(len(data) for _, data in self._files.values())

    def put(self, session: str, data: bytes, size: Size) -> Kept:
        """Keep the file of a session's new image, instead of the one it had."""
        self.drop(session)
        kept = Kept(secrets.token_hex(8), size)
        with self._lock:
            self._files[kept.token] = session, data
            held = sum(len(data) for _, data in self._files.values())
            while held > self._limit and len(self._files) > 1:
                held -= len(self._files.popitem(last=False)[1][1])
        return kept

    def get(self, kept: Kept) -> bytes | None:
        """The file, if it is still there."""
        with self._lock:
            if kept.token not in self._files:
                return None
            self._files.move_to_end(kept.token)
            return self._files[kept.token][1]

    def forget(self, kept: Kept) -> None:
        """Forget one image, if it is still there."""
        with self._lock:
            self._files.pop(kept.token, None)

    def drop(self, session: str) -> None:
        """Forget the image of a session."""
        with self._lock:
            for token in [token for token, (owner, _) in self._files.items() if owner == session]:
                del self._files[token]
