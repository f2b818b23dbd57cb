"""The state of a running server: the engine behind its batcher, the gate, the metrics, the threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from viscot_core.engines.base import Engine
from viscot_core.policies.wording import Wording
from viscot_core.serve.batching import Batcher
from viscot_core.serve.guard.flight import ByteLimit, PixelLimit
from viscot_core.serve.guard.gate import Gate
from viscot_core.serve.metrics import Metrics
from viscot_core.serve.remote import Fetcher
from viscot_core.serve.requests import ALIAS
from viscot_core.serve.settings import ServeOptions

T = TypeVar("T")


class Server:
    """Made once for an engine that is spoken to in ``wording``; ``close`` finishes what is queued."""

    def __init__(
        self, engine: Engine, wording: Wording, options: ServeOptions, fetcher: Fetcher | None = None
    ) -> None:
        limits = options.limits
        self.wording = wording
        self.options = options
        self.limits = limits
        self.names = tuple(dict.fromkeys((engine.name, ALIAS)))
        self.gate = Gate(limits.queue)
        self.bytes = ByteLimit(limits.bytes_in_flight)
        self.pixels = PixelLimit(limits.pixels_in_flight)
        self.metrics = Metrics(in_flight=lambda: self.gate.inside, waiting=lambda: self.batcher.waiting)
        self.batcher = Batcher(
            engine, batch=limits.batch, gather_seconds=limits.gather_seconds, on_batch=self.metrics.add_batch
        )
        self.fetcher = fetcher
        if fetcher is None and options.allow_urls:
            self.fetcher = Fetcher(options.allow_urls, max_bytes=limits.body_bytes)
        self._threads = ThreadPoolExecutor(limits.queue, thread_name_prefix="viscot-request")

    def start(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run ``function`` in a thread; there is one for each place at the gate."""
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def close(self) -> None:
        """Finish what is queued and stop."""
        # The batcher first: the request threads wait for its answers and can end only after them.
        self.batcher.close()
        self._threads.shutdown(wait=True)
