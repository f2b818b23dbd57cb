"""What all requests hold together: bytes of bodies and pixels of images, each within a limit."""

from __future__ import annotations

import asyncio
from collections import deque

from viscot_core.serve.errors import ApiError


class ByteLimit:
    """ByteLimit of all requests that have come and are not answered yet; at most ``limit``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class HeldBytes:
    """The share of one request; leaving the block gives it back."""

    def __init__(self, total: ByteLimit) -> None:
        self._total = total
        self._mine = 0

    def __enter__(self) -> HeldBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self._total.held -= self._mine

    def add(self, count: int) -> None:
        """Note ``count`` more bytes.

        Raises:
            ApiError: 429 if all requests together would hold too many.
        """
        if self._total.held + count > self._total.limit:
            raise ApiError(
                429,
                "The server holds too many bytes of other requests; try again in 2 s.",
                "busy",
                headers={"Retry-After": "2", "Connection": "close"},
            )
        self._total.held += count
        self._mine += count


class PixelLimit:
    """PixelLimit of all decoded images, at most ``limit``; requests get room in the order they came."""

    def __init__(self, limit: int) -> None:
        self.free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, count: int) -> None:
        """Wait for room for ``count`` pixels, which must not be more than ``limit``."""
        if not self._waiting and count <= self.free:
            self.free -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._let_in()  # it may have been the first, too large for the room there is
            else:
                self.give(count)
            raise

    def give(self, count: int) -> None:
        """Give the room of ``count`` pixels back."""
        self.free += count
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self.free):
            count, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= count
                turn.set_result(None)
